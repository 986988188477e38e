"""The process: sockets, privileges, signals, backends, and the service that runs the server."""
