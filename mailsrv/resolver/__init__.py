"""The DNS stub resolver (RFC 1035)."""
