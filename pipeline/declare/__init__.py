"""What users write, checked when it is declared."""
