"""What a pipeline needs around it: so far, the permissions on its bucket."""
