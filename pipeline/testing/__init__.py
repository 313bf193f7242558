"""A store in memory and an executor in this process, for your tests and ours."""
