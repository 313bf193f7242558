"""How DuckDB reaches a store's objects: local files by path, anything else through a small file
system over the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pipeline.ports import Store

if TYPE_CHECKING:
    import duckdb


class Files(Protocol):
    """Names objects for DuckDB."""

    def path(self, key: str, size_bytes: int) -> str: ...
    def register(self, connection: duckdb.DuckDBPyConnection) -> None: ...


class LocalFiles:
    """Objects that are files of this machine."""

    def __init__(self, root: str) -> None:
        self._root = root.rstrip("/")

    def path(self, key: str, size_bytes: int) -> str:
        """The file's path."""
        return f"{self._root}/{key}"

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Nothing to do: DuckDB reads files by itself."""


class StoreFiles:
    """Objects of any store, read by range; their names begin with `base`.

    Every open file keeps its own position, as DuckDB's threads need.
    """

    def __init__(self, store: Store, base: str = "tidemill://") -> None:
        self._store = store
        self._base = base
        self._sizes: dict[str, int] = {}

    def path(self, key: str, size_bytes: int) -> str:
        """The object's name within the registered file system, which knows no other objects than
        those named here.
        """
        self._sizes[key] = size_bytes
        return self._base + key

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make the base's scheme known to this connection."""
        from sinks.query.object_filesystem import StoreFileSystem

        filesystem: Any = StoreFileSystem(
            self._store, self._sizes, self._base, skip_instance_cache=True
        )
        connection.register_filesystem(filesystem)


def files_of(store: Store) -> Files:
    """The right one for a store."""
    root = store.traits.local_root
    return LocalFiles(str(root)) if root is not None else StoreFiles(store)
