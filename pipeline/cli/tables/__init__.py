"""Commands on committed tables."""
