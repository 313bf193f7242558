"""The rules of the protocol, each with a way to break it.

A rule whose mutation no history notices would be no rule.

Each mutation replaces one method of the code under test, and nothing of the simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

from pipeline.commit_log import checkpoints
from pipeline.commit_log.log import Log
from pipeline.commit_log.vacuum import Vacuum
from pipeline.discover import listing
from pipeline.errors import ObjectNotFound, PreconditionFailed
from pipeline.model import keys
from pipeline.model.commit import Commit
from pipeline.model.listing import Stored
from pipeline.model.task import Assignment
from pipeline.passes import aggregation, upkeep
from pipeline.passes.runner import Pass
from pipeline.state import stored_state
from pipeline.state.checkpoint import Checkpoint
from pipeline.state.state import State
from tests.unit.pipeline.commit_log import test_log
from tests.unit.pipeline.commit_log import test_vacuum as test_maintenance
from tests.unit.pipeline.discover import test_compare as test_discovery

from .store import SimStore

ALL: dict[str, tuple[str, Callable[[], Any]]] = {}
"""Name -> (the rule that is removed, a context manager that removes it)."""


def removes(rule: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def register(mutation: Callable[[], Any]) -> Callable[[], Any]:
        ALL[mutation.__name__.replace("_", "-")] = (rule, mutation)
        return mutation

    return register


@contextmanager
def _both(*patches: Any) -> Iterator[None]:
    with ExitStack() as stack:
        for one in patches:
            stack.enter_context(one)
        yield


@contextmanager
def applied(name: str | None) -> Iterator[None]:
    """The code under test with one rule removed."""
    if name is None:
        yield
        return
    with ALL[name][1]():
        yield


@removes("settle only receipts of open tasks, the first one wins")
def settle_blindly() -> Any:
    """A task stays open after it was settled, so that the receipt of any later attempt settles it
    again.
    """
    real = State._settle

    def settle(self: State, settled: Any, at_ms: int) -> None:
        task = self.tasks[settled.task]
        mine = [i for i, key in enumerate(task.inputs.keys) if self.is_wanted(key, task.id)]
        real(self, settled, at_ms)
        self.tasks[task.id] = task
        for i in mine:
            self.wanted.setdefault(task.inputs.keys[i], (task.id, task.inputs.etags[i]))

    return patch.object(State, "_settle", settle)


class _Tolerant(dict[str, Any]):
    def __delitem__(self, key: str) -> None:
        self.pop(key, None)


@removes("`wanted` decides which task may publish a key")
def any_task_publishes() -> Any:
    real = State.__init__

    def init(self: State, pipeline: str) -> None:
        real(self, pipeline)
        self.wanted = _Tolerant()

    return _both(
        patch.object(State, "__init__", init),
        patch.object(State, "is_wanted", lambda self, key, task_id: True),
    )


@removes("receipts have a nonce for each attempt")
def fixed_receipt_names() -> Any:
    return patch.object(keys, "receipt", lambda home, task, nonce: f"{home}receipts/{task}.x.json")


@removes("dispatch after the commit")
def dispatch_first() -> Any:
    real = Log.append

    async def commit(self: Pass, evidence: Any) -> Any:
        async def append(log: Log, state: State, proposal: Commit) -> bool:
            planned = [
                Assignment(pipeline="p", task=t, nonce=self.context.ids.nonce(), schema=None)
                for t in proposal.plan
            ]
            await self.context.executor.dispatch(planned)
            return await real(log, state, proposal)

        with patch.object(Log, "append", append):
            return await real_commit(self, evidence)

    async def nothing(self: Pass, commit: Commit) -> None:
        return None

    real_commit = Pass.commit
    return _both(patch.object(Pass, "commit", commit), patch.object(Pass, "_dispatch", nothing))


@removes("a number that is taken is ours if it reads back as ours")
def taken_means_lost() -> Any:
    async def put_once(self: Log, key: str, body: bytes) -> None:
        await self.store.put(key, body, create_only=True)

    real = Log.append

    async def append(self: Log, state: State, commit: Commit) -> bool:
        try:
            return await real(self, state, commit)
        except PreconditionFailed:
            return False

    return _both(patch.object(Log, "_put_once", put_once), patch.object(Log, "append", append))


@removes("code runs only what was planned for its own version")
def code_of_any_version() -> Any:
    from pipeline.work.order_journal import OrderJournal

    real = OrderJournal.begin

    async def begin(self: Any, order: Any) -> Any:
        import dataclasses

        return await real(dataclasses.replace(self, version=None), order)

    return patch.object(OrderJournal, "begin", begin)


@removes(
    "a committed version that was to be processed once more, and got no answer, is found again"
)
def forget_wishes() -> Any:
    from pipeline.discover import compare

    return patch.object(compare, "_also_waiting", lambda state, again: again)


@removes("a vacuum collects only log entries that its checkpoint covers")
def collect_uncovered() -> Any:
    real = Vacuum._log_and_checkpoints

    async def collect(self: Vacuum, checkpoint: str) -> None:
        names = [
            k async for page in self.store.list(keys.log_prefix(self.log.home)) for k in page.keys
        ]
        self.kept = checkpoints.Kept(
            floor=max((keys.log_sequence(name) or 0 for name in names), default=0)
        )
        await real(self, checkpoint)

    return patch.object(Vacuum, "_log_and_checkpoints", collect)


@removes("a checkpoint remembers which inputs of open tasks are superseded")
def forget_superseded() -> Any:
    real = stored_state.restored

    def restored(checkpoint: Checkpoint) -> State:
        checkpoint.superseded = {}
        return real(checkpoint)

    return patch.object(stored_state, "restored", restored)


@removes("outputs have a nonce for each attempt")
def fixed_output_names() -> Any:
    return patch.object(keys, "output_id", lambda task, nonce: f"{task}.x")


@removes("read at the planned etag")
def read_any_version() -> Any:
    real = SimStore.do_get

    def do_get(self: SimStore, key: str, if_match: str | None) -> Stored:
        return real(self, key, None)

    return patch.object(SimStore, "do_get", do_get)


@removes("vacuum deletes only what is retired or removed long enough")
def vacuum_open_tasks() -> Any:
    return patch.object(Vacuum, "_is_over", lambda self, task: True)


@removes("retention before removed files are deleted")
def vacuum_at_once() -> Any:
    real = Vacuum._removed_outputs

    async def removed_outputs(self: Vacuum, due_ms: int) -> None:
        await real(self, due_ms + 10**12)

    return patch.object(Vacuum, "_removed_outputs", removed_outputs)


@removes("retention by the store's own time")
def local_clock() -> Any:
    async def follow(self: Log, state: State, key: str, stored: Stored) -> bool:
        return await real(
            self,
            state,
            key,
            Stored(body=stored.body, etag="", size_bytes=0, modified_us=_written(stored) * 1000),
        )

    def _written(stored: Stored) -> int:
        import msgspec

        return msgspec.json.decode(stored.body, type=Commit).written_ms

    real = Log._follow
    return patch.object(Log, "_follow", follow)


@removes("HEAD before 'deleted'")
def trust_listings() -> Any:
    async def confirm(store: Any, absent: Iterable[str]) -> list[str]:
        return list(absent)

    return patch.object(listing, "confirm_missing", confirm)


@removes("a listing must not judge keys decided after it began")
def no_base_sequence() -> Any:
    return patch.object(State, "decided_since", lambda self, key, base: False)


@removes("the floor")
def no_floor() -> Any:
    async def floor(self: Log) -> int:
        return 0

    return patch.object(Log, "floor", floor)


@removes("the id chain")
def no_id_chain() -> Any:
    async def follow(self: Log, state: State, key: str, stored: Stored) -> bool:
        import msgspec

        commit = msgspec.json.decode(stored.body, type=Commit)
        commit.previous = state.id
        await self._prepare(state, commit)
        state.apply(commit, stored.modified_us // 1000)
        return True

    return patch.object(Log, "_follow", follow)


@removes("a number that is taken is somebody else's unless it is read back as ours")
def taken_means_ours() -> Any:
    async def read_back(self: Log, key: str, commit_id: str) -> int | None:
        try:
            return (await self.store.get(key)).modified_us
        except ObjectNotFound:
            return None

    return patch.object(Log, "_read_back", read_back)


@removes("ledger runs are given up by a commit before they are deleted")
def collect_silently() -> Any:
    async def unnamed(log: Log, state: State, kept: Any) -> list[str]:
        return []

    real = Vacuum.run
    listed = checkpoints.unnamed_runs

    async def run(self: Vacuum, checkpoint: str) -> Any:
        self.collected = await listed(self.log, self.state, self.kept)
        return await real(self, checkpoint)

    return _both(patch.object(upkeep, "unnamed_runs", unnamed), patch.object(Vacuum, "run", run))


@removes("no checkpoint names a run that a commit before it gave up")
def name_doomed_runs() -> Any:
    real = State.apply

    def apply(self: State, commit: Commit, at_ms: int) -> None:
        real(self, commit, at_ms)
        self.doomed.clear()

    return patch.object(State, "apply", apply)


@removes("runs are exchanged only for those of a checkpoint that has all that the overlay lacks")
def exchange_for_any_runs() -> Any:
    real = checkpoints._write_runs

    async def write(log: Any, state: State, ids: Any) -> None:
        base = state.base
        await real(log, state, ids)
        state.base = base

    return patch.object(checkpoints, "_write_runs", write)


@removes("aggregates are committed right after the snapshot they were computed over, or not at all")
def late_aggregates() -> Any:
    async def aggregate(running: Pass) -> None:
        aggregator = running.context.aggregator
        if aggregator is None or not aggregator.is_behind(running.state):
            return
        await running.log.load_outputs(running.state)
        files = await aggregator.compute(running.state.snapshot(), running.context.ids.nonce())
        for _ in range(8):
            commit = running.proposer.blank(
                running.state, now_ms=0, commit_id=running.context.ids.nonce()
            )
            commit.aggregates = files
            if await running.log.append(running.state, commit):
                return
            await running.catch_up()

    return patch.object(aggregation, "aggregate", aggregate)


@removes("only what the user's own code raised is final")
def lost_is_final() -> Any:
    from pipeline.plan.draft import Draft

    real = Draft.quarantine_lost

    def quarantine(self: Any, task: Any, i: int, loss: Any) -> None:
        real(self, task, i, loss)
        import msgspec

        self.commit.quarantine[-1] = msgspec.structs.replace(
            self.commit.quarantine[-1], retry_at_ms=0
        )

    return patch.object(Draft, "quarantine_lost", quarantine)


@removes("readers use the snapshot's file list and its dead keys")
def readers_ignore_dead_keys() -> Any:
    from pipeline.model.snapshot import Snapshot

    real = State.snapshot

    def snapshot(self: State) -> Snapshot:
        import msgspec

        whole = real(self)
        outputs = {
            k: msgspec.structs.replace(o, dead=[], dead_tasks=[]) for k, o in whole.outputs.items()
        }
        return msgspec.structs.replace(whole, outputs=outputs)

    return patch.object(State, "snapshot", snapshot)


@removes("what was read through a mount is settled only after the store was asked")
def trust_mounts() -> Any:
    from pipeline.passes import receipts

    async def verified(store: Any, task: Any, receipt: Any) -> Any:
        return receipt

    return patch.object(receipts, "verified", verified)


@removes("each execution of an order takes a nonce of its own")
def one_nonce_an_order() -> Any:
    from pipeline.work.order_journal import OrderJournal

    real = OrderJournal.begin

    async def begin(self: Any, order: Any) -> Any:
        found = await real(self, order)
        return (
            order.assignment
            if isinstance(found, Assignment) and order.assignment is not None
            else found
        )

    return patch.object(OrderJournal, "begin", begin)


@removes("what died while a compaction ran is dead in its files, too")
def merge_forgets_deaths() -> Any:
    from pipeline.state import table_files

    return patch.object(table_files, "dead_rows", lambda name, output: [])


@removes("a dead row of a merged output is named by the task that made it")
def dead_by_own_task() -> Any:
    from . import doubles

    return patch.object(
        doubles,
        "dead_rows",
        lambda name, output: [(name.partition(".")[0], key) for key in output.dead],
    )


@removes("a compaction is settled only while all that it merged is still there")
def merge_blindly() -> Any:
    from pipeline.plan.planner import _Rules

    return patch.object(_Rules, "_still_holds", lambda self, task, receipt: True)


@removes("a vacuum keeps a checkpoint from before the retention time, and the log since")
def keep_nothing() -> Any:
    async def what_is_kept(log: Log, state: State, retention_s: float) -> Any:
        return checkpoints.Kept(floor=state.sequence - 1)

    return patch.object(upkeep, "what_is_kept", what_is_kept)


@removes("ledger runs that a kept checkpoint names are not given up")
def collect_kept_runs() -> Any:
    real = checkpoints.what_is_kept

    async def what_is_kept(log: Log, state: State, retention_s: float) -> Any:
        kept = await real(log, state, retention_s)
        return checkpoints.Kept(checkpoints=kept.checkpoints, floor=kept.floor)

    return patch.object(upkeep, "what_is_kept", what_is_kept)


@removes("an object of a stage is another one when its rows were made again")
def stage_by_key_alone() -> Any:
    from pipeline.runtime.table_source import TableStore
    from pipeline.state.ledger import Entry

    real = TableStore._head

    async def head(self: Any, log: Any, state: Any, key: str) -> Any:
        import msgspec

        found = await real(self, log, state, key)
        return msgspec.structs.replace(found, etag="any") if found is not None else None

    def page(self: Any, some: Any, prefix: str, start_after: str) -> Any:
        import msgspec

        whole = _PAGE(self, some, prefix, start_after)
        return msgspec.structs.replace(whole, etags=["any"] * len(whole.keys))

    async def rows(self: Any, key: str, etag: str, **rest: Any) -> Any:
        log, state = await self._newest()
        await log.look_up(state, [key.removeprefix(self.prefix)])
        entry: Entry | None = state.entry(key.removeprefix(self.prefix))
        return await _ROWS(self, key, entry.output if entry is not None else "", **rest)

    _PAGE, _ROWS = TableStore._page, TableStore.rows
    patches = [
        patch.object(TableStore, name, new)
        for name, new in (("_head", head), ("_page", page), ("rows", rows))
    ]
    return _both(*patches)


@removes("a sink is given the rows that died in outputs that stay")
def sink_forgets_deaths() -> Any:
    from sinks.copies import changes

    from . import downstream

    def between(*given: Any) -> Any:
        import dataclasses

        return dataclasses.replace(changes.changes_between(*given), gone=[])

    return patch.object(downstream, "changes_between", between)


DIRECTED = {
    "collect-kept-runs": (
        test_maintenance.test_a_vacuum_leaves_the_runs_of_the_ledger_that_an_earlier_state_is_read_from
    ),
    "exchange-for-any-runs": (
        test_log.test_a_state_takes_no_runs_that_lack_what_it_merged_into_its_own
    ),
    "no-floor": test_log.test_an_entry_recreated_below_the_floor_did_not_happen,
    "forget-wishes": partial(
        test_discovery.test_a_committed_version_that_waits_to_be_processed_once_more_is_found,
        etag="1",
        retry_at_ms=5,
        is_found=True,
    ),
    "local-clock": (
        test_maintenance.test_a_file_removed_by_a_machine_whose_clock_is_years_behind_stays_for_its_retention
    ),
    "no-id-chain": test_log.test_a_reader_does_not_follow_an_entry_of_another_history,
    "taken-means-lost": partial(
        test_log.test_a_lost_answer_neither_loses_nor_doubles_the_commit, ["after"]
    ),
}
"""Rules that random histories seldom or never miss, and the test that fails without them."""

PROVEN_REDUNDANT = {
    "fixed-receipt-names": (
        """A receipt carries its attempt's nonce and the keys of files that only this attempt wrote.
    If a later attempt of the same task overwrites it, whoever reads the name finds one of the
    two, whole; either settles the task, the files of the other are orphans, and a settled task
    ignores both. If a mount publishes a cut-off receipt over a whole one, it is no receipt
    (`codec.decode` refuses it), and the deadline gives the task another attempt. So nothing is
    lost or doubled. The names keep the nonce because mounts cannot overwrite, and so that a whole
    receipt outlives a cut-off one.
    """
    ),
}
"""Rules that no history can miss, with the reason why they are kept."""
