"""What policy keeps on disk."""
