"""The forms that answers take, each value exactly: Arrow, text, pandas."""
