"""The simulated store: strongly consistent objects, short listing pages, and (in some histories)
stale listings.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import ObjectNotFound, PreconditionFailed, StoreUnavailable
from pipeline.model.listing import Head, Page, Stored
from pipeline.ports import PLAIN, Content

from .kernel import Kernel, Request

PAGE_KEYS = 3
TRIES = 4


async def patient(name: str, *args: Any) -> Any:
    """Reads and deletes are sent again a bounded number of times, as real clients do; writes never
    are.
    """
    for _ in range(TRIES - 1):
        try:
            return await Request(name, *args)
        except StoreUnavailable:
            continue
    return await Request(name, *args)


STALE_S = 40


class SimStore:
    """The Store port over `Request`s; `do_*` execute them."""

    url = "sim://"
    traits = PLAIN

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.objects: dict[str, Head] = {}
        self.bodies: dict[str, bytes] = {}
        self.stale_listings = False
        self.recent: list[tuple[int, str, str]] = []
        self.on_put: Callable[[str, bytes, bool], None] = lambda key, body, existed: None
        self.on_delete: Callable[[str], None] = lambda key: None
        self._serial = 0
        self.check_preconditions = True

    # -- the port ----------------------------------------------------------------------------------

    async def list(
        self, prefix: str, *, start_after: str = "", split_at: Sequence[str] = ()
    ) -> AsyncIterator[Page]:
        after = start_after
        while True:
            page, more = await patient("list", prefix, after)
            yield page
            if not more:
                return
            after = page.keys[-1]

    async def get(
        self, key: str, *, if_match: str | None = None, byte_range: tuple[int, int] | None = None
    ) -> Stored:
        return await patient("get", key, if_match)

    async def get_many(self, keys: Sequence[str]) -> Sequence[Stored | None]:
        found: list[Stored | None] = []
        for key in keys:
            try:
                found.append(await patient("get", key, None))
            except ObjectNotFound:
                found.append(None)
        return found

    async def put(
        self, key: str, body: bytes, *, create_only: bool = False, if_match: str | None = None
    ) -> None:
        await Request("put", key, body, create_only, if_match)

    async def put_file(self, key: str, path: Path) -> None:
        raise AssertionError("the simulation's outputs are small")

    async def head(self, key: str) -> Head:
        return await patient("head", key)

    async def head_many(self, keys: Sequence[str]) -> Sequence[Head | None]:
        found: list[Head | None] = []
        for key in keys:
            try:
                found.append(await patient("head", key))
            except ObjectNotFound:
                found.append(None)
        return found

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            await patient("delete", key)

    def open_content(self, key: str, etag: str, size_bytes: int) -> Content:
        raise AssertionError("the simulation reads through get")

    async def check(self, prefix: str = "") -> None:
        return None

    async def close(self) -> None:
        return None

    # -- execution ---------------------------------------------------------------------------------

    def do_pause(self) -> None:
        return None

    def do_list(self, prefix: str, after: str) -> tuple[Page, bool]:
        names = [k for k in self.objects if k.startswith(prefix)]
        if self.stale_listings and self.kernel.rng.random() < 0.3:
            names = self._stale(prefix, names)
        names = sorted(k for k in names if k > after)
        page = [self.objects[k] for k in names[:PAGE_KEYS]]
        return (
            Page(
                keys=[h.key for h in page],
                etags=[h.etag for h in page],
                sizes=[h.size_bytes for h in page],
                modified_us=[h.modified_us for h in page],
            ),
            len(names) > PAGE_KEYS,
        )

    def _stale(self, prefix: str, names: list[str]) -> list[str]:
        """A listing that has not seen some recent creations yet."""
        hidden = {
            key
            for at, key, what in self.recent
            if what == "put"
            and self.kernel.now - at <= STALE_S
            and key.startswith(prefix)
            and self.kernel.rng.random() < 0.5
        }
        return [name for name in names if name not in hidden]

    def do_get(self, key: str, if_match: str | None) -> Stored:
        head = self.do_head(key)
        if if_match is not None and self.check_preconditions and head.etag != if_match:
            raise PreconditionFailed(key)
        return Stored(
            body=self.bodies[key],
            etag=head.etag,
            size_bytes=head.size_bytes,
            modified_us=head.modified_us,
        )

    def do_head(self, key: str) -> Head:
        if key not in self.objects:
            raise ObjectNotFound(key)
        return self.objects[key]

    def do_put(
        self,
        key: str,
        body: bytes,
        create_only: bool,
        if_match: str | None,
        *,
        mounted: bool = False,
    ) -> Head:
        current = self.objects.get(key)
        if create_only and current is not None:
            raise PreconditionFailed(key)
        if if_match is not None:
            if current is None:
                raise ObjectNotFound(key)
            if current.etag != if_match:
                raise PreconditionFailed(key)
        self._serial += 1
        head = Head(
            key=key,
            etag=f"e{self._serial}",
            size_bytes=len(body),
            modified_us=self.kernel.now * 1_000_000,
        )
        self.objects[key], self.bodies[key] = head, body
        self.recent.append((self.kernel.now, key, "put"))
        del self.recent[:-60]
        self.on_put(key, body, current is not None)
        return head

    def do_delete(self, key: str) -> None:
        if self.objects.pop(key, None) is not None:
            del self.bodies[key]
            self.on_delete(key)
