"""What must hold of any server that a scenario is played at, and its text."""
