"""Where accepted mail goes."""
