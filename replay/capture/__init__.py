"""Packet captures: from a pcap to conversations, and packets written."""
