"""The OCI distribution API over a `Store`, free of any web framework."""
