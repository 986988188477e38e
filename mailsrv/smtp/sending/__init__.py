"""The sending side of SMTP and LMTP, without I/O: replies in, commands and outcomes out."""
