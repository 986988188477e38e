"""Virtual time for servers that are written with asyncio."""
