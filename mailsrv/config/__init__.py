"""The configuration file, its checks, and the values it is parsed into."""
