"""SQL over committed rows, in bounds."""
