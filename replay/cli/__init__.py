"""The command line of replay, a module a verb."""
