"""A directory as a bucket."""
