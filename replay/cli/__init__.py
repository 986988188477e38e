"""The command line of replay, one module for each command."""
