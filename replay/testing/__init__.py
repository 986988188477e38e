"""Scripted senders and a server in virtual time, for people's own tests."""
