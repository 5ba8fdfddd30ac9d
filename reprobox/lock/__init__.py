"""What is installed: requirements resolved to hash-pinned wheels, and those wheels fetched into the cache."""
