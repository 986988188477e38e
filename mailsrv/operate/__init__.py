"""Commands for the operator beside a running server."""
