"""The audit: proves from the bucket itself that every object is in exactly one state, and every row
is there once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pipeline.commit_log.log import Log
from pipeline.commit_log.vacuum import Vacuum
from pipeline.discover.router import Router
from pipeline.errors import ObjectNotFound
from pipeline.model import keys
from pipeline.model.commit import Quarantined
from pipeline.model.receipt import OutputFile
from pipeline.model.settings import PipelineSettings
from pipeline.model.snapshot import dead_rows
from pipeline.ports import Store
from pipeline.state.ledger import Entry
from pipeline.state.state import State

PROBLEMS_MAX = 100


@dataclass(slots=True)
class AuditReport:
    """Counts by state, and every contradiction found, one line each."""

    sequence: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    outputs: int = 0
    files: int = 0
    rows: int = 0
    orphans: int = 0
    orphan_bytes: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not self.problems


class Audit:
    """One audit of one pipeline.

    `rows_by_source` counts live rows in the output files themselves, source by source.
    """

    def __init__(
        self,
        store: Store,
        settings: PipelineSettings,
        log: Log,
        rows_by_source: Callable[[State], Mapping[str, int]],
    ) -> None:
        self.store = store
        self.settings = settings
        self.log = log
        self.rows_by_source = rows_by_source
        self.report: AuditReport = AuditReport()

    async def run(self) -> AuditReport:
        """Check everything; nothing is changed. Uploads during the audit are harmless."""
        state = await self.log.load()
        self.report.sequence = state.sequence
        await self.log.load_outputs(state)
        entries = await all_entries(self.log, state)
        await self._sources(state, entries)
        self._ledger_against_outputs(state, entries)
        await self._files(state)
        self._rows(state, entries)
        await self._orphans(state)
        return self.report

    def _problem(self, text: str) -> None:
        if len(self.report.problems) < PROBLEMS_MAX:
            self.report.problems.append(text)

    async def _sources(self, state: State, entries: Mapping[str, Entry]) -> None:
        """Each listed object is in exactly one state; each known key that is not listed is said to
        be gone.
        """
        router, seen = Router(self.settings), set()
        async for page in self.store.list(self.settings.source):
            for key, etag, size in zip(page.keys, page.etags, page.sizes, strict=True):
                if keys.is_folder_marker(key, size):
                    continue
                seen.add(key)
                self.report.sources[self._state_of(state, entries, router, key, etag)] += 1
        for key in entries:
            if key not in seen:
                self.report.sources["deleted, rows still live until the next pass"] += 1

    def _state_of(
        self, state: State, entries: Mapping[str, Entry], router: Router, key: str, etag: str
    ) -> str:
        entry, quarantined, wanted = (
            entries.get(key),
            state.quarantine.get(key),
            state.wanted.get(key),
        )
        states = []
        if entry is not None and entry.etag == etag:
            states.append("committed")
        if quarantined is not None and quarantined.etag == etag and wanted is None:
            states.append("quarantined")
        if wanted is not None and wanted[1] == etag:
            states.append("in progress")
        if (
            len(states) > 1
            and entry is not None
            and (keys.task_sequence(_task_of(quarantined, wanted)) or 0) > entry.sequence
        ):
            # a backfill: the old rows count until there are new ones
            return f"committed, and {states[1]} once more"
        if len(states) > 1:
            self._problem(f"{key!r} is {' and '.join(states)} at the same version")
        if states:
            return states[0]
        if not router.includes(key):
            return "not included"
        if router.route(key) is None:
            return "matched by no transform"
        return "new" if entry is None else "changed"

    def _ledger_against_outputs(self, state: State, entries: Mapping[str, Entry]) -> None:
        """Every committed source names a live output that counts it, and no output counts one that
        is not committed.
        """
        live: Counter[str] = Counter()
        dead = {name: set(dead_rows(name, output)) for name, output in state.stored().items()}
        for key, entry in entries.items():
            name: str | None = entry.output
            while name is not None:
                live[name] += 1
                holder = state.outputs.get(name)
                if holder is None:
                    self._problem(f"{key!r} is committed in output {name}, which is not live")
                elif holder.into is None and (entry.output.partition(".")[0], key) in dead[name]:
                    self._problem(
                        f"{key!r} is committed in output {name}, which counts its rows as"
                        " superseded"
                    )
                name = holder.into if holder is not None else None
        for output, holder in state.outputs.items():
            if live[output] != holder.live:
                self._problem(
                    f"output {output} counts {holder.live} live sources, the ledger {live[output]}"
                )

    async def _files(self, state: State) -> None:
        """Each live file exists with its recorded size."""
        outputs = state.stored()
        self.report.outputs = len(outputs)
        files = [file for output in outputs.values() for file in output.files]
        self.report.files = len(files)
        for start in range(0, len(files), 64):
            await asyncio.gather(*(self._file(file) for file in files[start : start + 64]))
        for aggregate in state.aggregates.values():
            await self._exists(aggregate.key, aggregate.size_bytes)

    async def _file(self, file: OutputFile) -> None:
        await self._exists(file.key, file.size_bytes)

    async def _exists(self, key: str, size_bytes: int) -> None:
        try:
            found = await self.store.head(key)
        except ObjectNotFound:
            self._problem(f"{key} is live and missing")
            return
        if found.size_bytes != size_bytes:
            self._problem(f"{key} has {found.size_bytes} bytes, its commit recorded {size_bytes}")

    def _rows(self, state: State, entries: Mapping[str, Entry]) -> None:
        """The rows in the files are the rows that the ledger counts, for each source: none missing,
        none twice.
        """
        if self.report.problems and any("missing" in p for p in self.report.problems):
            return  # the files cannot be scanned
        counted = self.rows_by_source(state)
        self.report.rows = sum(counted.values())
        for key, entry in entries.items():
            if counted.get(key, 0) != entry.rows:
                self._problem(
                    f"{key!r} has {counted.get(key, 0)} live rows, its commit recorded {entry.rows}"
                )
        for key in counted:
            if key not in entries:
                self._problem(f"{key!r} has live rows and is not committed")

    async def _orphans(self, state: State) -> None:
        """Files that no commit names: harmless until retention has passed, then the vacuum is
        overdue.
        """
        judge = Vacuum(self.log, self.settings, state, dry_run=True)
        for prefix in (
            keys.rows_prefix(self.settings.output),
            keys.rejected_prefix(self.settings.output),
        ):
            async for page in self.store.list(prefix):
                for key, size in zip(page.keys, page.sizes, strict=True):
                    if judge.is_orphan(key):
                        self.report.orphans += 1
                        self.report.orphan_bytes += size


async def all_entries(log: Log, state: State) -> dict[str, Entry]:
    """Every committed source of the state. Raises Outdated."""
    found: dict[str, Entry] = {}
    async for table in log.all_committed(state):
        columns = [table.column(name).to_pylist() for name in ("key", *Entry._fields)]
        found.update({row[0]: Entry(*row[1:]) for row in zip(*columns, strict=True)})
    return found


def _task_of(quarantined: Quarantined | None, wanted: tuple[str, str] | None) -> str:
    """The task that a key is in, or was set aside by."""
    return wanted[0] if wanted is not None else quarantined.task if quarantined is not None else ""
