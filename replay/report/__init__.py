"""Results shown to people, on a terminal and as JSON."""
