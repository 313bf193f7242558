"""Compaction of the table's files: many small ones, and those with superseded rows, become few
large and sorted ones.

A compaction is a task, so that no two take the same outputs, and a vacuum leaves its files alone
until it is over. It replaces outputs, not rows: readers see the one file list or the other. What
dies while it runs is dead in its result, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import CommitConflict, TidemillError
from pipeline.model.commit import FORMAT_VERSION
from pipeline.model.receipt import MAIN_TABLE, OutputFile, Receipt
from pipeline.model.snapshot import Output
from pipeline.model.task import Task
from pipeline.plan.evidence import Evidence

if TYPE_CHECKING:
    from pipeline.passes.runner import Pass

TOGETHER_MAX = 2_000
"""Outputs that one compaction merges."""
SPREAD_MAX = 16
"""Target sizes that one compaction writes in all its partitions together."""
SMALL_SHARE = 0.25
"""Of the target size: what was merged to it may well be half of it, as large files compress better
than small ones.
"""
DEAD_SHARE = 0.2
"""Of an output's sources: with more of them superseded it is rewritten, whatever its size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which outputs are worth rewriting.

    target_bytes: the size of file that is aimed at. few: merge even two small ones; otherwise only
    where as many of about one size have gathered as make it worth while. purge: also all that have
    any superseded rows.
    """

    target_bytes: int
    few: bool = True
    purge: bool = False


@dataclass(slots=True)
class Merged:
    """What a compaction did."""

    outputs: int = 0
    files_before: int = 0
    bytes_before: int = 0
    files: int = 0
    size_bytes: int = 0
    outdone: int = 0
    """Merges that were given up because what they merged was replaced meanwhile."""


def choose(outputs: Mapping[str, Output], wanted: Wanted) -> list[list[str]]:
    """Groups of outputs to merge, each into one. Pure.

    Small outputs go together in the order they were made, until a partition has its file. A group
    is worth while if its largest member is at most twice as large as all others together: so the
    cost follows what is small, and a row is written again only when its file grows by half.
    """
    found = [
        [name]
        for name, output in sorted(outputs.items())
        if _is_worn(output, wanted) and not _is_small(output, wanted)
    ]
    tiers: dict[int, list[str]] = {}
    for name, output in sorted(outputs.items()):
        if _is_small(output, wanted):
            tiers.setdefault(0 if wanted.few else _mean(output).bit_length() // 3, []).append(name)
    for names in tiers.values():
        worth = (_worth(outputs, group, wanted) for group in _groups(outputs, names, wanted))
        found += [group for group in worth if group]
    return found


def _groups(outputs: Mapping[str, Output], names: list[str], wanted: Wanted) -> Iterator[list[str]]:
    group: list[str] = []
    held: Counter[tuple[tuple[str, str | None], ...]] = Counter()
    for name in names:
        for file in outputs[name].files:
            if file.table == MAIN_TABLE:
                held[tuple(file.partition.items())] += file.size_bytes
        group.append(name)
        full = (
            max(held.values(), default=0) >= wanted.target_bytes
            or held.total() >= SPREAD_MAX * wanted.target_bytes
        )
        if full or len(group) == TOGETHER_MAX:
            yield group
            group, held = [], Counter()
    if group:
        yield group


def _worth(outputs: Mapping[str, Output], group: list[str], wanted: Wanted) -> list[str]:
    """The group without members that are too large to be written again for the others' sake; empty
    if nothing is left to merge.
    """
    worn = [name for name in group if _is_worn(outputs[name], wanted)]
    by_size = sorted(group, key=lambda name: _size(outputs[name]))
    left = sum(_size(outputs[name]) for name in by_size)
    while (
        by_size
        and by_size[-1] not in worn
        and _size(outputs[by_size[-1]]) > 2 * (left - _size(outputs[by_size[-1]]))
    ):
        left -= _size(outputs[by_size.pop()])
    chosen = set(by_size) if len(by_size) >= (2 if wanted.few else 8) else set()
    return [name for name in group if name in chosen or name in worn]


def _is_worn(output: Output, wanted: Wanted) -> bool:
    dead = len(output.dead)
    return bool(output.files) and dead > (0 if wanted.purge else DEAD_SHARE * (dead + output.live))


def _is_small(output: Output, wanted: Wanted) -> bool:
    return _mean(output) < SMALL_SHARE * wanted.target_bytes


def _size(output: Output) -> int:
    return sum(file.size_bytes for file in output.files if file.table == MAIN_TABLE)


def _mean(output: Output) -> int:
    """Bytes of one of its files of rows."""
    return _size(output) // max(sum(file.table == MAIN_TABLE for file in output.files), 1)


class Compactor:
    """One compaction of one pipeline's table, commit by commit: it can be stopped after any of
    them.
    """

    def __init__(self, passing: Pass, wanted: Wanted) -> None:
        self.passing = passing
        self.wanted = wanted
        self.done: Merged = Merged()

    async def run(self) -> Merged:
        """Merge what is worth it.

        Uploads, passes and other compactions may go on meanwhile. Raises Outdated, SettingsError.
        """
        passing = self.passing
        await passing.open()
        await passing.log.load_outputs(passing.state)
        for names in choose(passing.state.stored(), self.wanted):
            if passing.context.stopping():
                break
            await self._one(names)
        return self.done

    async def rewrite(self, names: list[str]) -> None:
        """These outputs alone, whatever their size."""
        await self._one(names)
        if self.done.outdone:
            raise CommitConflict(
                f"others changed table {self.passing.context.settings.name} meanwhile: run it again"
            )

    async def _one(self, names: list[str]) -> None:
        passing, rewriter = self.passing, self.passing.context.rewriter
        assert rewriter is not None, "only who has one compacts"  # noqa: S101
        commit = await passing.commit(
            Evidence(base=passing.state.sequence, runs_work=False, merge=names)
        )
        if commit is None or not commit.plan:
            self.done.outdone += 1
            return
        task, nonce, state = commit.plan[0], passing.context.ids.nonce(), passing.state
        merged = {name: state.outputs[name] for name in task.merges}
        dead = [len(output.dead) for output in merged.values()]
        try:
            files = await rewriter.rewrite(merged, task.id, nonce, state.schema)
        except TidemillError:
            # else its outputs would wait for the deadline
            await passing.cancel([task.id], "its compaction failed")
            raise
        receipt = _receipt(task, nonce, files, dead)
        settled = await passing.commit(
            Evidence(base=state.sequence, runs_work=False, receipts={task.id: receipt})
        )
        if settled is None or not settled.settle:
            self.done.outdone += 1
            return
        was = [file for output in merged.values() for file in output.files]
        self.done.outputs += len(merged)
        self.done.files_before += len(was)
        self.done.bytes_before += sum(file.size_bytes for file in was)
        self.done.files += len(files)
        self.done.size_bytes += sum(file.size_bytes for file in files)


def _receipt(task: Task, nonce: str, files: list[OutputFile], dead: list[int]) -> Receipt:
    """A compaction speaks of no sources: of files alone, and of what was dead when
    they were made.
    """
    return Receipt(
        format=FORMAT_VERSION,
        task=task.id,
        nonce=nonce,
        version=task.version,
        rows=[],
        rejected=[],
        problems=[],
        files=files,
        schema=None,
        seconds=0.0,
        bytes_read=0,
        merged_dead=dead,
    )
