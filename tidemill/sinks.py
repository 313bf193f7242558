"""Where else the tables are kept: what `Pipeline.sink` takes."""

from sinks import Catalogue, Delta, DuckDBFile, Postgres

__all__ = ["Catalogue", "Delta", "DuckDBFile", "Postgres"]
