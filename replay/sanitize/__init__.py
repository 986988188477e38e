"""Look-alikes for the names, addresses, credentials and words of a capture."""
