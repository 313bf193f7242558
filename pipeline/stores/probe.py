"""Proves before the first commit that a store decides conditional writes itself: exactly-once commits stand on that."""

from __future__ import annotations

from pipeline.errors import PreconditionFailed, StoreUnsafe
from pipeline.ports import Store


async def probe_conditional_writes(store: Store, home: str, nonce: str) -> None:
    """Write a small object under `home` and try to create it again, and to swap it at a version it is not at.

    Raises StoreUnsafe if the store lets either through: some S3 services ignore If-None-Match and If-Match.
    """
    key = f"{home}probe-{nonce}"
    await store.put(key, b"1", create_only=True)
    try:
        if not await _refused(store, key, create_only=True):
            raise StoreUnsafe(_text(store, "overwrote an object that was to be created only if absent (If-None-Match: *)"))
        if not await _refused(store, key, if_match="0" * 32):
            raise StoreUnsafe(_text(store, "overwrote an object at another version than the one named (If-Match)"))
    finally:
        await store.delete([key])


async def _refused(store: Store, key: str, *, create_only: bool = False, if_match: str | None = None) -> bool:
    try:
        await store.put(key, b"2", create_only=create_only, if_match=if_match)
    except PreconditionFailed:
        return True
    return False


def _text(store: Store, what: str) -> str:
    return f"{store.url} {what}: two runs could commit the same files twice; use a store that honours conditional writes"
