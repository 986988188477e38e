"""What was expected beside what was observed."""
