"""The log in the bucket: load, catch up, append exactly once, checkpoints, vacuum."""
