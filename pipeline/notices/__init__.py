"""Notices of uploads, by HTTP or from a queue."""
