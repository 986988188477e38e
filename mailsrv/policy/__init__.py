"""Decisions about clients, senders and recipients; no I/O."""
