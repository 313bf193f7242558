"""Deployment onto Modal."""
