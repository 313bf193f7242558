"""What a value is in a table: types, their contract, and exact conversion from Python and Arrow."""
