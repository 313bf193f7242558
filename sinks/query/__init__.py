"""SQL over committed rows, in bounds, and the forms that answers take."""
