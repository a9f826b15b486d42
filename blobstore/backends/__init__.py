"""Backends: where the bytes are."""
