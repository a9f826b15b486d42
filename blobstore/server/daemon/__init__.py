"""`blobstore serve`: configuration, listeners, processes."""
