"""Copies of the tables in other systems, brought from commit to commit exactly once."""
