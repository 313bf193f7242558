"""Frozen values, key names, settings and bounds: what travels between the parts and is written into
the bucket.
"""
