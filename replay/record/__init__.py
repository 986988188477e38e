"""The recorders: a proxy that writes a capture, and a tap on the server itself."""
