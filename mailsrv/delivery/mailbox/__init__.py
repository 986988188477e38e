"""Delivery into mailboxes of this machine."""
