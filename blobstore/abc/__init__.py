"""The two contracts: where bytes are, and what refers to what."""
