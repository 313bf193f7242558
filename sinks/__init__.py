"""Committed rows and where they go: Parquet files, SQL tables and aggregates, and copies in other
systems.
"""

from sinks.targets import Catalogue, Delta, DuckDBFile, Postgres

__all__ = ["Catalogue", "Delta", "DuckDBFile", "Postgres"]
