"""Commands around a project: make it, deploy it, find what is missing."""
