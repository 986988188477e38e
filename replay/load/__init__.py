"""Captures played as load."""
