"""Commands that have files processed."""
