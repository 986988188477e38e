"""The spool: accepted mail on the disk until it is delivered."""
