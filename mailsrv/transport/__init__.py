"""Octets over one socket: buffers, TLS, and the PROXY preface."""
