"""Rows to Parquet files: schema modes, checks, rescue, partitions, encodings."""
