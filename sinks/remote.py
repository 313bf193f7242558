"""The bucket's objects as a file system for DuckDB. Each open file has its own position: DuckDB reads with many threads."""

from __future__ import annotations

import threading
from typing import Any

from fsspec import AbstractFileSystem

from pipeline.errors import ObjectNotFound
from pipeline.ports import Store

BLOCK_BYTES = 1 << 20


class StoreFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Read only, `tidemill://<key>`."""

    protocol = "tidemill"
    cachable = False

    def __init__(self, store: Store, **options: Any) -> None:
        super().__init__(**options)
        self._store = store
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return path.removeprefix("tidemill://") if isinstance(path, str) else [p.removeprefix("tidemill://") for p in path]

    def know(self, sizes: dict[str, int]) -> None:
        """Sizes that are known already need no request."""
        self._sizes.update(sizes)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name, size and type of one object."""
        key = self._strip_protocol(path)
        with self._lock:
            size = self._sizes.get(key)
        if size is None:
            import asyncio

            try:
                size = asyncio.run(self._store.head(key)).size_bytes
            except ObjectNotFound:
                raise FileNotFoundError(path) from None
            with self._lock:
                self._sizes[key] = size
        return {"name": key, "size": size, "type": "file"}

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
