"""The receiving side of SMTP (RFC 5321): octets in, replies and questions out, no I/O."""
