"""A checkpoint's files: found, downloaded, read."""
