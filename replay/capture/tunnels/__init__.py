"""What stands between a captured frame and a sender's IP packet: link layers, tags and tunnels."""
