"""Claims held against what a server did, and the verdict on each scenario."""
