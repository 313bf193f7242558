"""The bucket's objects as a file system for DuckDB.

Each open file has its own position: DuckDB reads with many threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fsspec import AbstractFileSystem

from pipeline.ports import Store


class StoreFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Read only, `<base><key>`."""

    cachable = False

    def __init__(self, store: Store, sizes: Mapping[str, int], base: str, **options: Any) -> None:
        super().__init__(**options)
        self.protocol: str = base.partition("://")[0]
        self._base = base
        self._store = store
        self._sizes = sizes

    def _strip_protocol(self, path: Any) -> Any:
        return self._key(path) if isinstance(path, str) else [self._key(p) for p in path]

    def _key(self, path: str) -> str:
        """DuckDB gives the path with the scheme or without it."""
        rest = self._base.partition("://")[2]
        return (
            path.removeprefix(self._base)
            if path.startswith(self._base)
            else path.removeprefix(rest)
        )

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name, size and type of one object that a snapshot names. There are no others."""
        key = self._strip_protocol(path)
        if key not in self._sizes:
            raise FileNotFoundError(path)
        return {"name": key, "size": self._sizes[key], "type": "file"}

    def modified(self, path: str) -> datetime:
        """Always the same: a key that a snapshot names is written once."""
        return datetime.fromtimestamp(0, UTC)

    def exists(self, path: str, **_: Any) -> bool:
        """Whether there is such an object."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def glob(self, path: str, **_: Any) -> list[str]:
        """The path itself: tables name their files, nothing is searched."""
        return [path] if self.exists(path) else []

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """The path itself."""
        return [self.info(path)] if detail else [path]

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        if mode != "rb":
            raise PermissionError(f"{path} is read only")
        key = self._strip_protocol(path)
        return self._store.open_content(key, "", self.info(path)["size"]).open()
