"""Declared aggregates, brought up to date from what changed."""
