"""A power cut between any two requests to the disk: what was said to be stored is whole, what is
half there is not believed.

The model is the weakest that fsync(2) allows: bytes of a file that were not fsynced may be there,
in part, or not; names in a folder that was not fsynced since may be there or not, each by itself,
in any order.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.commit_log.log import Log
from pipeline.errors import PreconditionFailed
from pipeline.model.policy import Policy
from pipeline.stores.local.listing import PRIVATE
from pipeline.testing.memory_store import MemoryStore
from tests.faults.disk import NotedStore, RecordedDisk, Stalled, World, _Instant
from tests.faults.test_disk_errors import first, second

Steps = list[tuple[Any, ...]]
SAMPLES = 24
"""Random choices for each cut, besides the extreme ones."""
RUNS_EVERY = 60
"""Of so many different states after a cut, one is run upon."""


@dataclass
class Bytes:
    """A file: its bytes as written, and how many of them are durable."""

    body: bytearray = field(default_factory=bytearray)
    durable: int = 0


@dataclass
class Folder:
    """A folder: its names as they are, as they are on the disk, and the changes since."""

    names: dict[str, Any] = field(default_factory=dict)
    durable: dict[str, Any] = field(default_factory=dict)
    pending: list[tuple[str, Any]] = field(default_factory=list)

    def set(self, name: str, what: Any) -> None:
        self.pending.append((name, what))
        self.names[name] = what
        if what is None:
            del self.names[name]


class PowerCut:
    """The disk after the first requests of a list."""

    def __init__(self, root: Path, steps: Steps) -> None:
        self.base = str(root) + "/"
        self.root = Folder()
        for step, *words in steps:
            getattr(self, f"_{step}", lambda *_: None)(*words)

    def _at(self, path: str) -> tuple[Folder, str]:
        *above, name = path.removeprefix(self.base).split("/")
        folder = self.root
        for part in above:
            folder = folder.names[part]
        return folder, name

    def _create(self, path: str) -> None:
        folder, name = self._at(path)
        folder.set(name, Bytes())

    def _write(self, path: str, part: bytes) -> None:
        folder, name = self._at(path)
        folder.names[name].body += part

    def _sync(self, path: str) -> None:
        folder, name = self._at(path)
        file = folder.names[name]
        file.durable = len(file.body)

    def _link(self, path: str, target: str) -> None:
        folder, name = self._at(path)
        into, new = self._at(target)
        into.set(new, folder.names[name])

    def _replace(self, path: str, target: str, body: bytes) -> None:
        into, new = self._at(target)
        if not path.startswith(self.base):  # from elsewhere on this disk, written by who knows whom
            into.set(new, Bytes(bytearray(body)))
            return
        folder, name = self._at(path)
        into.set(new, folder.names[name])
        folder.set(name, None)

    def _unlink(self, path: str) -> None:
        folder, name = self._at(path)
        folder.set(name, None)

    def _mkdir(self, path: str) -> None:
        folder, name = self._at(path)
        folder.set(name, Folder())

    def _sync_folder(self, path: str) -> None:
        folder = self.root
        for part in path.removeprefix(self.base[:-1]).strip("/").split("/"):
            folder = folder.names[part] if part else folder
        folder.durable, folder.pending = dict(folder.names), []

    def left(self, keeps: Callable[[], bool], part: Callable[[int], int]) -> dict[str, bytes]:
        """What is on the disk: `keeps` says of each change of a name whether it got there, `part`
        how many loose bytes did.
        """
        found: dict[str, bytes] = {}

        def walk(folder: Folder, at: str) -> None:
            names = dict(folder.durable)
            for name, what in folder.pending:
                if keeps():
                    names[name] = what
            for name, what in names.items():
                if isinstance(what, Folder):
                    walk(what, f"{at}{name}/")
                elif what is not None:
                    found[at + name] = bytes(
                        what.body[: what.durable + part(len(what.body) - what.durable)]
                    )

        walk(self.root, "")
        return {key: body for key, body in found.items() if not key.startswith(PRIVATE)}


def states(root: Path, steps: Steps, rng: random.Random) -> Iterator[dict[str, bytes]]:
    """What may be left: nothing that was not asked for, all of it, all names without their bytes,
    and random parts.
    """
    cut = PowerCut(root, steps)
    yield cut.left(lambda: False, lambda n: 0)
    yield cut.left(lambda: True, lambda n: n)
    yield cut.left(lambda: True, lambda n: 0)
    for _ in range(SAMPLES):
        yield cut.left(lambda: rng.random() < 0.5, lambda n: rng.choice([0, n // 2, n]))


def allowed(steps: Steps) -> dict[str, set[bytes | None]]:
    """For each key what may be there: the last that was said to be stored, or what was begun since;
    None for nothing.
    """
    found: dict[str, set[bytes | None]] = {}
    for step, *words in steps:
        if step == "putting":
            found.setdefault(words[0], {None}).add(words[1])
        elif step == "put":
            found[words[0]] = {words[1]}
        elif step == "deleting":
            found.setdefault(words[0], {None}).add(None)
    return found


def check(left: dict[str, bytes], steps: Steps) -> None:
    may = allowed(steps)
    for key in may.keys() | left.keys():
        assert left.get(key) in may.get(key, {None}), (
            f"{key} is {'missing' if key not in left else 'not whole'}"
        )


def believed(left: dict[str, bytes]) -> None:
    """The log has no hole, and whatever its state names is there."""

    async def work() -> None:
        store = MemoryStore()
        for key, body in left.items():
            await store.put(key, body)
        state = await Log(store, "logs", clock=_Instant(), policy=Policy()).load()
        assert (
            max([int(key[-25:-5]) for key in left if "/log/" in key], default=0) <= state.sequence
        )
        missing = [
            f.key
            for output in state.stored().values()
            for f in output.files
            if len(left.get(f.key, b"")) != f.size_bytes
        ]
        assert missing == []

    asyncio.run(work())


def test_after_a_power_cut_at_any_moment_what_was_stored_is_whole_and_a_run_completes(
    tmp_path: Path,
) -> None:
    world = first(tmp_path)
    disk, rng = RecordedDisk(), random.Random(1)
    world.run(disk)
    second(world)
    world.run(disk, vacuum=True)
    seen: set[int] = set()
    for n in range(len(disk.steps) + 1):
        for left in states(world.root, disk.steps[:n], rng):
            mark = hash(frozenset(left.items()))
            check(left, disk.steps[:n])
            if mark in seen:
                continue
            seen.add(mark)
            believed(left)
            if len(seen) % RUNS_EVERY == 0:
                goes_on(tmp_path / f"after-{len(seen)}", left, world)
    assert len(seen) > 300


def goes_on(folder: Path, left: dict[str, bytes], world: World) -> None:
    for key, body in left.items():
        path = folder / "bucket" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    shutil.copytree(world.root / "up", folder / "bucket" / "up")
    again = World(folder / "bucket", world.truth, world.bad)
    again.run(vacuum=True)
    again.check()


def pair(folder: Path, stall: str) -> tuple[NotedStore, NotedStore]:
    """Two processes on one disk, the first of which stops for good before a request
    of that name.
    """
    steps: Steps = []
    return NotedStore(folder, RecordedDisk(steps, stall)), NotedStore(folder, RecordedDisk(steps))


def surely_there(store: NotedStore) -> set[str]:
    """Keys that every power cut leaves."""
    found = [set(left) for left in states(store.root, store.disk.steps, random.Random(1))]
    return set.intersection(*found)


def prepared(folder: Path, *names: str) -> Steps:
    """Folders that are on the disk already."""
    steps: Steps = []

    async def work() -> None:
        for name in names:
            await NotedStore(folder, RecordedDisk(steps)).put(name, b"0")

    asyncio.run(work())
    return steps


def test_a_commit_does_not_outlive_the_one_it_follows(tmp_path: Path) -> None:
    """Entry 1 is visible but its writer stopped before it was durable; entry 2 follows it."""
    steps = prepared(tmp_path, "log/0")
    one, two = (NotedStore(tmp_path, RecordedDisk(steps)) for _ in range(2))
    with pytest.raises(Stalled):
        asyncio.run(_stalled_after_link(one, "log/1"))
    assert "log/1" not in surely_there(two), "the model knows that nothing made it durable"
    two.disk.stall = "link"
    with pytest.raises(Stalled):
        asyncio.run(two.put("log/2", b"2", create_only=True))
    assert "log/1" in surely_there(two), "before entry 2 can be seen, entry 1 is durable"


async def _stalled_after_link(store: NotedStore, key: str) -> None:
    link = store.disk.link

    def linked(path: str, target: str) -> None:
        link(path, target)
        raise Stalled

    store.disk.link = linked  # type: ignore[method-assign]
    await store.put(key, b"1", create_only=True)


def test_a_commit_that_is_found_taken_is_durable_before_it_is_believed(tmp_path: Path) -> None:
    steps = prepared(tmp_path, "log/0")
    one, two = (NotedStore(tmp_path, RecordedDisk(steps)) for _ in range(2))
    with pytest.raises(Stalled):
        asyncio.run(_stalled_after_link(one, "log/1"))
    with pytest.raises(PreconditionFailed):
        asyncio.run(two.put("log/1", b"1", create_only=True))
    assert "log/1" in surely_there(two)


def test_an_object_in_a_folder_that_another_process_made_is_durable(tmp_path: Path) -> None:
    """The maker of the folder stopped before the folder's own name was durable."""
    one, two = pair(tmp_path, "sync_folder")
    with pytest.raises(Stalled):
        asyncio.run(one.put("rows/day=1/a", b"1"))
    asyncio.run(two.put("rows/day=1/b", b"2"))
    assert "rows/day=1/b" in surely_there(two)


def test_files_handed_over_are_durable_with_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    store = NotedStore(tmp_path / "bucket", RecordedDisk())
    (tmp_path / "large").write_bytes(b"x" * 5000)
    asyncio.run(store.put_file("rows/a", tmp_path / "large"))
    for left in states(store.root, store.disk.steps, random.Random(1)):
        assert left == {"rows/a": b"x" * 5000}
