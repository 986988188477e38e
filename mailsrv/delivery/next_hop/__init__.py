"""The way out to a next hop over SMTP or LMTP: addresses, connections, and what is kept open."""
