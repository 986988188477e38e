"""Captured senders of mail, turned into exact tests and into load."""
