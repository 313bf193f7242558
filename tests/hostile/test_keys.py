"""Any key either round-trips exactly, or is refused by name: the Store contract with a dictionary
as its model.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from pipeline.errors import KeyUnsupported, ObjectNotFound, PreconditionFailed
from tests.contract.test_store import listed, make_store, survives
from tests.hostile.strategies import PARTS, keys

NO_XML = re.compile("[\ufffe\uffff\ud800-\udfff]")
"""Requests that delete many keys are XML, which cannot carry these."""
EXAMPLES = {"memory": 200, "local": 50, "moto": 15}


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


async def round_trip(store: Any, key: str, *, folders: bool) -> str:
    """`kept` or `refused`; anything else raises."""
    body = b"body of " + key.encode("utf-8", "surrogatepass")
    try:
        await store.put(key, body, create_only=True)
    except KeyUnsupported as error:
        assert "\n" not in str(error)
        assert folders or _is_beyond_any_store(key), (
            f"{key!r} was refused, though it is a valid key: {error}"
        )
        assert await listed(store, "") == []
        with pytest.raises(ObjectNotFound):
            await store.head(key)
        await store.delete([key])
        return "refused"
    found = await store.get(key)
    head = await store.head(key)
    assert (found.body, head.key, head.etag, head.size_bytes) == (body, key, found.etag, len(body))
    assert await listed(store, "") == [key]
    assert await listed(store, key) == [key]
    assert await listed(store, "", start_after=key) == []
    assert store.open_content(key, head.etag, head.size_bytes).read() == body
    with pytest.raises(PreconditionFailed):
        await store.put(key, b"", create_only=True)
    await store.put(key, b"second", if_match=head.etag)
    [again] = await store.get_many([key])
    assert again.body == b"second"
    await store.delete([key])
    assert await listed(store, "") == []
    assert await store.get_many([key]) == [None]
    return "kept"


def _is_beyond_any_store(key: str) -> bool:
    return not 0 < len(key.encode("utf-8", "surrogatepass")) < 950 or any(
        "\ud800" <= c <= "\udfff" for c in key
    )


@pytest.mark.parametrize("kind", EXAMPLES)
def test_any_key_round_trips_or_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    """Nothing outside the root is touched, whatever the key says."""
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    store = make_store(kind, bucket)
    outcomes = set()

    @settings(max_examples=EXAMPLES[kind], suppress_health_check=list(HealthCheck))
    @given(keys)
    def check(key: str) -> None:
        if kind == "moto":
            assume(not NO_XML.search(key))
            # what the server itself refuses or changes is not ours
            assume(_is_beyond_any_store(key) or survives(store, key))
        outcomes.add(run(round_trip(store, key, folders=kind == "local")))

    check()
    assert outcomes == {"kept", "refused"}
    assert [p.name for p in tmp_path.iterdir()] == ["bucket"]
    left = [p for p in bucket.rglob("*") if p.is_file() and p.parent.name != ".tidemill"]
    assert left == []


POOL = (
    "a",
    "a/b",
    "a/b/c",
    "a-",
    "a.",
    "a0",
    "A",
    "é",
    "e\u0301",
    "z/=b'c",
    "z/--help",
    "z/\x1b[2J",
    "🎉",
    "a b",
    "%2F",
)


class Model(RuleBasedStateMachine):
    """Puts, swaps, deletes and listings against a dictionary."""

    kind = "memory"

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="tidemill-model-")
        self.store = make_store(self.kind, Path(self.folder.name))
        self.model: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.serial = 0

    def teardown(self) -> None:
        self.folder.cleanup()

    def _body(self) -> bytes:
        self.serial += 1
        return f"body {self.serial}".encode() + b"!" * self.serial

    def _put(self, key: str, **condition: Any) -> bool:
        """Whether it was stored. A directory cannot hold `a` beside `a/b`, and must say so."""
        body = self._body()
        try:
            run(self.store.put(key, body, **condition))
        except KeyUnsupported:
            clash = any(
                other.startswith(key + "/") or key.startswith(other + "/") for other in self.model
            )
            assert self.kind == "local", f"{key!r} was refused"
            assert clash, f"{key!r} was refused, and nothing is in its way"
            return False
        self.model[key] = body
        self.etags[key] = run(self.store.head(key)).etag
        return True

    @rule(key=st.sampled_from(POOL))
    def put(self, key: str) -> None:
        self._put(key)

    @rule(key=st.sampled_from(POOL))
    def create(self, key: str) -> None:
        if key in self.model:
            with pytest.raises(PreconditionFailed):
                run(self.store.put(key, b"lost", create_only=True))
        else:
            self._put(key, create_only=True)

    @rule(key=st.sampled_from(POOL), other=st.sampled_from(POOL))
    def swap(self, key: str, other: str) -> None:
        if key in self.model:
            self._put(key, if_match=self.etags[key])
        elif other in self.model:
            with pytest.raises((PreconditionFailed, KeyUnsupported)):
                run(self.store.put(key, b"lost", if_match=self.etags[other]))

    @rule(key=st.sampled_from(POOL))
    def swap_at_an_old_version(self, key: str) -> None:
        old = self.etags.get(key)
        if old is not None and key in self.model and self._put(key):
            with pytest.raises(PreconditionFailed):
                run(self.store.put(key, b"lost", if_match=old))

    @rule(names=st.lists(st.sampled_from(POOL), max_size=4))
    def delete(self, names: list[str]) -> None:
        run(self.store.delete(names))
        for name in names:
            self.model.pop(name, None)

    @rule(
        prefix=st.sampled_from(("", "a", "a/", "z/", "é", "nothing")),
        after=st.sampled_from(("", *POOL, "a/b/", "zz")),
    )
    def list(self, prefix: str, after: str) -> None:
        if self.kind == "moto" and not after.isprintable():
            return  # moto writes StartAfter into its XML as it came
        wanted = sorted(
            (k for k in self.model if k.startswith(prefix) and k.encode() > after.encode()),
            key=str.encode,
        )
        assert run(listed(self.store, prefix, start_after=after)) == wanted

    @rule(names=st.lists(st.sampled_from(POOL), max_size=5))
    def get(self, names: list[str]) -> None:
        found = run(self.store.get_many(names))
        assert [f and f.body for f in found] == [self.model.get(name) for name in names]

    @invariant()
    def holds_exactly_the_model(self) -> None:
        if hasattr(self, "store"):
            assert run(listed(self.store, "")) == sorted(self.model, key=str.encode)


@pytest.mark.parametrize(
    ("kind", "histories", "steps"), [("memory", 30, 30), ("local", 30, 30), ("moto", 3, 12)]
)
def test_a_store_agrees_with_a_dictionary(kind: str, histories: int, steps: int) -> None:
    """Including create-only, swaps at old versions, and listings from any key on."""
    machine = type("Model", (Model,), {"kind": kind})
    options = settings(
        max_examples=histories,
        stateful_step_count=steps,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    run_state_machine_as_test(machine, settings=options)


def test_the_parts_cover_what_is_known_to_be_dangerous() -> None:
    text = "\0".join(PARTS)
    for odd in ("..", "%2F", "\n", "\x1b", "'", "--help", "=1+2", "\ud800", "\u202e", ".tidemill"):
        assert odd in text
