"""The faked edges of the network: DNS, reputation and delivery."""
