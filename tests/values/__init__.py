"""Whatever a file holds is kept exactly, or set aside: arbitrary values beside a model that knows
nothing of Arrow.
"""
