"""What commits mean: the folded state, its checkpoints and its sorted runs. Pure."""
