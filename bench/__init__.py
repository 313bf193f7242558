"""Measurements beside other programs, as ratios within one run. See README.md."""
