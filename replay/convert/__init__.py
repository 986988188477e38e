"""From a capture to a transcript, and back."""
