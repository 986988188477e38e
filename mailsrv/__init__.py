"""A receiving SMTP server for the edge of a mail system."""

__version__ = "0.1.0"
