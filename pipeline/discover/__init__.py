"""Which objects there are, and which of them are new, changed or gone."""
