"""Committed rows and where they go: Parquet files, SQL tables and aggregates."""
