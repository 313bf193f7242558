"""What users declare with `Pipeline.sink`: where else the tables are kept.

Checked when they are made; nothing is opened yet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pipeline.errors import SettingsError

if TYPE_CHECKING:
    from pipeline.ports import Store
    from sinks.copies.port import Sink

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class Target:
    """A place that keeps a copy of the tables."""

    __slots__ = ()
    needs: ClassVar[tuple[str, ...]] = ()
    """Packages beside Tidemill's own."""
    stays_here: ClassVar[bool] = False
    """It is on this machine alone, where no container reaches it."""

    @property
    def writes(self) -> str | None:
        """What the keys of the bucket begin with that it writes; None if it writes none."""
        return None

    @property
    def modal_secret(self) -> str | None:
        """The Modal secret that it needs once deployed."""
        return None

    def open(self, store: Store) -> Sink:
        """The sink. Does no request yet."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Delta(Target):
    """Delta Lake tables below a prefix of the bucket, `<prefix><table>/` each.

    Needs the extra `delta`.
    """

    prefix: str
    needs: ClassVar[tuple[str, ...]] = ("deltalake",)

    def __post_init__(self) -> None:
        if not isinstance(self.prefix, str) or not self.prefix.endswith("/"):
            raise SettingsError(
                f"Delta({self.prefix!r}): give a prefix of the bucket that ends with '/', like"
                ' Delta("lake/")'
            )
        _check_key("Delta", self.prefix)

    @property
    def writes(self) -> str | None:
        return self.prefix

    def open(self, store: Store) -> Sink:
        from sinks.copies.delta import DeltaSink

        return DeltaSink(store, self.prefix)


@dataclass(frozen=True, slots=True)
class Catalogue(Target):
    """A DuckDB file in the bucket with views over the committed Parquet.

    Several pipelines may share it.
    """

    key: str

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key.endswith((".duckdb", ".db")):
            raise SettingsError(
                f"Catalogue({self.key!r}): give a key of the bucket, like"
                ' Catalogue("catalogue.duckdb")'
            )
        _check_key("Catalogue", self.key)

    @property
    def writes(self) -> str | None:
        return self.key

    def open(self, store: Store) -> Sink:
        from sinks.copies.catalogue import CatalogueSink

        return CatalogueSink(store, self.key)


@dataclass(frozen=True, slots=True)
class Postgres(Target):
    """Tables in a schema of a Postgres database. Needs the extra `postgres`.

    dsn_env: the name of the environment variable with the connection string: it is never written
    into a file. secret: the Modal secret that brings the variable, once deployed.
    """

    dsn_env: str
    schema: str = "tidemill"
    secret: str | None = None
    needs: ClassVar[tuple[str, ...]] = ("psycopg", "psycopg-binary")

    def __post_init__(self) -> None:
        if not isinstance(self.dsn_env, str) or not _VARIABLE.match(self.dsn_env):
            # not shown: it may be the connection string itself, with a password in it
            raise SettingsError(
                "Postgres(dsn_env=...) takes the NAME of an environment variable, never a"
                " connection string"
            )
        if not isinstance(self.schema, str) or not _NAME.match(self.schema):
            raise SettingsError(
                f"Postgres: schema={self.schema!r}: use a lower-case letter, then letters, digits"
                " and _ (at most 63)"
            )

    @property
    def modal_secret(self) -> str | None:
        return self.secret

    def open(self, store: Store) -> Sink:
        from sinks.copies.postgres import PostgresSink

        return PostgresSink(self.dsn_env, self.schema)


@dataclass(frozen=True, slots=True)
class DuckDBFile(Target):
    """A DuckDB database file of this machine with the tables in it.

    A relative path begins at the working directory.
    """

    path: str | Path
    stays_here: ClassVar[bool] = True

    def __post_init__(self) -> None:
        text = str(self.path)
        if (
            not isinstance(self.path, str | Path)
            or "://" in text
            or not text.endswith((".duckdb", ".db"))
        ):
            raise SettingsError(
                f"DuckDBFile({text!r}): give a path of this machine, like"
                ' DuckDBFile("warehouse.duckdb")'
            )

    def open(self, store: Store) -> Sink:
        from sinks.copies.duckdb_file import DuckDBFileSink

        return DuckDBFileSink(Path(self.path).expanduser())


def _check_key(what: str, key: str) -> None:
    if (
        "://" in key
        or key.startswith("/")
        or any(part in ("", ".", "..") for part in key.rstrip("/").split("/"))
    ):
        raise SettingsError(
            f"{what}({key!r}): give a key of the pipeline's own bucket, without scheme, '//', '.'"
            " or '..' parts"
        )
