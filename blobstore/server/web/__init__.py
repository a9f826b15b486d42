"""The protocol's messages over aiohttp."""
