"""Indexes: what refers to what, kept in memory or in LMDB."""
