"""SMTP as it is seen from outside: commands and replies in a stream of octets."""
