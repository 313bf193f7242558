"""One pass over a pipeline, and the upkeep of its table and its log."""
