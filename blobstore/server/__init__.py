"""The OCI distribution API over a `Store`: protocol, access and the daemon around them."""
