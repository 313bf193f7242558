"""SQL as DuckDB reads it: the one place that opens DuckDB, its parse tree, quoting,
reserved words.
"""
