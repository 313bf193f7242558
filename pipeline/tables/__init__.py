"""Committed tables as programs and commands read them, now and as they were."""
