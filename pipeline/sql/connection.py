"""The one place that opens DuckDB.

Nothing of the machine gets into an answer: no zone, calendar, home, or extension of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import SettingsError

if TYPE_CHECKING:
    import duckdb

UTC = "UTC"
STORAGE_VERSION = "v1.4.0"
"""Of DuckDB files for others: the default of DuckDB 2 cannot be opened by DuckDB 1."""
_OURS = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_persistent_secrets": False,
    "python_enable_replacements": False,  # else a query could name the variables of this program
}


def connect(
    database: str = ":memory:", *, timezone: str = UTC, read_only: bool = False, **config: Any
) -> duckdb.DuckDBPyConnection:
    """A connection in this zone, whatever the machine's is: it, its cursors, and so every view,
    cast and display.

    config: DuckDB's own settings besides. Raises duckdb.Error.
    """
    import duckdb

    settings = _OURS | config
    if database != ":memory:":
        settings = {"storage_compatibility_version": STORAGE_VERSION} | settings
    connection: duckdb.DuckDBPyConnection = duckdb.connect(
        database, read_only=read_only, config=settings
    )
    put_in_zone(connection, timezone)
    return connection


def connect_without_threads(timezone: str = UTC) -> duckdb.DuckDBPyConnection:
    """In memory, and without threads of its own: a process that had one may still be forked.

    It writes nothing to disk.
    """
    return connect(timezone=timezone, threads=1, async_threads=0, temp_directory="")


def put_in_zone(connection: duckdb.DuckDBPyConnection, timezone: str) -> None:
    """This connection and all that are made from it: plain SET would leave out cursors, which start
    with the machine's zone.
    """
    import duckdb

    quoted = timezone.replace("'", "''")
    try:
        for scope in ("GLOBAL", "SESSION"):
            connection.execute(f"SET {scope} TimeZone = '{quoted}'")
    except duckdb.Error:
        connection.close()
        raise SettingsError(
            f'timezone={timezone!r} is not known to DuckDB; write one like "Europe/Riga" or "UTC"'
        ) from None
    connection.execute("SET GLOBAL Calendar = 'gregorian'")
