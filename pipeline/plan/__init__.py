"""What the next commit says, given the state and what was seen. Pure."""
