"""TLS of captured flows, opened with recorded keys."""
