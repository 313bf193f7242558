"""Joins the same parts on Modal: the deployed app's functions, and the doctor."""
