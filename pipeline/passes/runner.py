"""One pass: discover, plan, dispatch, settle.

Any number of passes may run at once, on any number of machines.

The pass owns no rule: `planner` decides what a commit says, `log` whether it happened, `state` what
it means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.commit_log.checkpoints import write_checkpoint
from pipeline.commit_log.log import Log, Outdated
from pipeline.discover.compare import Judged
from pipeline.discover.listing import Finder, Look
from pipeline.discover.request import Request
from pipeline.errors import CommitConflict, SettingsError
from pipeline.model.commit import Commit, Generations
from pipeline.model.events import Progressed, Refused
from pipeline.model.loss import Loss
from pipeline.model.pass_report import PassReport
from pipeline.model.receipt import Receipt
from pipeline.model.settings import PipelineSettings
from pipeline.model.task import Assignment, Task
from pipeline.passes import aggregation, report
from pipeline.passes.admission import Admission, scopes
from pipeline.passes.commit_events import dispatched, events_of
from pipeline.passes.context import PassContext
from pipeline.passes.receipts import gather, verified
from pipeline.plan.evidence import Evidence, LostAttempt
from pipeline.plan.needs import needs_of
from pipeline.plan.planner import Proposer
from pipeline.ports import Finished
from pipeline.state.generations import Change
from pipeline.state.state import State


class Pass:
    """One bounded pass over the source prefix.

    Make a new one for each pass; `state` may be carried over.
    """

    def __init__(self, context: PassContext, state: State | None = None) -> None:
        self.context = context
        self.settings: PipelineSettings = context.settings
        self.log: Log = context.log()
        self.report: PassReport = PassReport()
        self.loaded = state
        self.proposer: Proposer = context.proposer()
        self._attempts: dict[str, tuple[str, int]] = {}
        self._receipts: dict[str, Receipt] = {}
        self._losses: dict[str, LostAttempt] = {}
        self._began: set[tuple[str, int]] = set()
        self._held = 0
        self._counted: set[str] = set()
        """Tasks that this pass planned."""
        self._since_checkpoint = 0
        self._is_open = False

    @property
    def state(self) -> State:
        """The state as this pass knows it."""
        if self.loaded is None:
            raise RuntimeError("the pass has not loaded the state yet")
        return self.loaded

    async def run(self, request: Request | None = None) -> PassReport:
        """Bring the pipeline up to date with what the bucket held when the pass began, or do what
        `request` asks for.

        With an attached executor this waits for the work it dispatched; with a detached one it
        returns after dispatch.
        """
        request = request or Request()
        if not self._is_open:
            await self.open()
        await self.gather()
        admission = Admission(self.context, request)
        order = scopes(request, self.settings, self.context.policy)
        finder = Finder(self.log, self.state, self.settings, request, order)
        ended = await self._look_at_all(finder, admission)
        evidence = self._left_word(admission, request, read_to_end=ended)
        if finder.growth is not None and not self.report.left:
            self.state.growth = finder.growth
        await self.commit(evidence)
        await self.drain()
        await self._aggregate()
        others = (t for t in self.state.tasks.values() if t.owner != self.context.executor.owner)
        self.report.elsewhere = sum(len(t.inputs) for t in others)
        return self.report

    async def _aggregate(self) -> None:
        """What cannot be computed is said; the rows are committed all the same."""
        try:
            await aggregation.aggregate(self)
        except SettingsError as error:
            self.report.aggregates_failed = str(error)
            refused = Refused(**self._named, what="aggregate", name="", reason=str(error))
            self.context.listener(refused)

    async def open(self) -> None:
        """Load the state, or bring the carried one up to date."""
        if self.loaded is None or not await self.log.catch_up(self.loaded):
            self.loaded = await self.log.load()
        self._is_open = True
        self.loaded.touched.clear()
        self.loaded.ledger.forget()

    # -- what was found ----------------------------------------------------------------------------

    async def _look_at_all(self, finder: Finder, admission: Admission) -> bool:
        """Plan what there is, as far as the limits go; whether it was looked at to its end."""
        ended = False
        async for look in finder.looks():
            self._count(look.judged)
            if self.context.stopping():
                break
            await self._take(admission, look)
            ended = not look.more
            self.report.changed += admission.let_go(self.state, self.context.clock.now_ms())
            if admission.is_over(self.report) or self._is_full(admission):
                break
        return ended

    async def _take(self, admission: Admission, look: Look) -> None:
        """Plan what the look found, as far as there is room now; the rest is held."""
        judged, now_ms, first = look.judged, self.context.clock.now_ms(), True
        admission.offer(judged.found, look.base, self.state, now_ms)
        while first or (
            admission.is_ready(more=look.more)
            and not admission.is_over(self.report)
            and not self._is_full(admission)
        ):
            evidence = self._collected()
            evidence.base = admission.base
            if admission.is_ready(more=look.more):
                evidence.found = admission.take(self.state, self.report, now_ms)
            if first:
                evidence.missing, evidence.unusable = look.missing, judged.unusable
            evidence.more_to_come = look.more or admission.has_more
            settles = bool(evidence.receipts or evidence.losses)
            if evidence.found or (first and (judged.absent or judged.unusable)):
                await self.commit(evidence)
                admission.note(evidence, self.state, now_ms)
            if settles and not self._is_full(admission):
                self.report.changed += await self._left_over(evidence)
            first = False
            await self._settle_while_full()

    def _left_word(self, admission: Admission, request: Request, *, read_to_end: bool) -> Evidence:
        """What is held and not committed yet, with a note of what the pass's
        own listing left to later ones.
        """
        listed = request.names is None and request.listing is None and not request.growing
        self.report.complete = listed and read_to_end
        admission.end(self.report, self.context.policy, complete=read_to_end)
        evidence = self._collected()
        if listed and not self.context.stopping():
            evidence.backlog = admission.backlog(self.context.clock.now_ms(), complete=read_to_end)
        return evidence

    async def _left_over(self, evidence: Evidence) -> int:
        """Objects that changed or went while an older version of theirs was only settled by the
        same commit.
        """
        now_ms, left = self.context.clock.now_ms(), 0
        columns = ((found.inputs.keys, found.inputs.etags) for found in evidence.found)
        objects = [pair for keys, etags in columns for pair in zip(keys, etags, strict=True)]
        # few: most are planned by now
        due = [(key, etag) for key, etag in objects if self.state.is_due(key, etag, now_ms)]
        await self.log.look_up(self.state, [*(key for key, _ in due), *evidence.missing])
        for key, etag in due:
            entry = self.state.entry(key)
            left += entry is None or entry.etag != etag
        return left + sum(
            self.state.entry(key) is not None and key not in self.state.wanted
            for key in evidence.missing
        )

    def _count(self, judged: Judged) -> None:
        self.report.listed += judged.listed
        self.report.listed_bytes += judged.listed_bytes
        self.report.unmatched += judged.unmatched
        self.report.unmatched_sample = (self.report.unmatched_sample + judged.unmatched_sample)[:5]

    def _is_full(self, admission: Admission) -> bool:
        """Whether nothing more may be dispatched by this pass: a later one goes on."""
        most = self.context.policy.open_tasks_max
        self.report.held_back |= most is not None and len(self.state.tasks) >= most
        return self.report.held_back or admission.over_budget > 0

    # -- receipts ----------------------------------------------------------------------------------

    async def gather(self, tasks: Iterable[str] | None = None) -> None:
        """Take what lies in the bucket of open tasks (or of `tasks`): of detached attempts, and of
        runners that died.
        """
        found = await gather(
            self.context.store, self.log.home, self.state, self.settings.output, tasks
        )
        for task_id, receipt in found.receipts.items():
            self._receipts.setdefault(task_id, receipt)
        self._losses |= {
            task_id: loss for task_id, loss in found.losses.items() if task_id not in self._receipts
        }
        self._began |= found.began

    async def _settle_while_full(self) -> None:
        while (
            self._in_flight() > self.context.policy.outstanding_sources_max
            and self.context.executor.outstanding
        ):
            await self._absorb()

    def _in_flight(self) -> int:
        return sum(
            len(self.state.tasks[t].inputs)
            for t, _ in self._attempts.values()
            if t in self.state.tasks
        )

    async def drain(self) -> None:
        """Wait for this executor's attempts and commit what they did, until none is left."""
        while True:
            if self.context.executor.outstanding:
                await self._absorb()
            elif self._receipts or self._losses:
                await self.commit(self._collected())
            else:
                return

    async def _absorb(self) -> None:
        for finished in await self.context.executor.finished():
            await self._note(finished)
        full = self._held >= self.context.policy.settle_sources_min
        if full or self._losses or not self.context.executor.outstanding:
            await self.commit(self._collected())

    async def _note(self, finished: Finished) -> None:
        task_id, attempt = self._attempts.pop(finished.nonce, (finished.task, 0))
        task, receipt, loss = self.state.tasks.get(task_id), finished.receipt, finished.loss
        if receipt is not None and task is not None:
            receipt = await verified(self.context.store, task, receipt)
            loss = Loss(reason="an output that its receipt names is not there, or is not whole")
        if receipt is not None:
            self._receipts.setdefault(task_id, receipt)
            self._held += len(receipt.rows)
            self._progressed(report.expected(self.report, self._receipts.values()))
            return
        owner = self.context.executor.owner
        self._losses[task_id] = LostAttempt(attempt, owner, loss or Loss(reason="no answer"))

    def _collected(self) -> Evidence:
        """What this pass holds and has not committed yet."""
        return Evidence(
            base=self.state.sequence,
            receipts=self._receipts,
            losses=self._losses,
            began=self._began,
        )

    # -- commits -----------------------------------------------------------------------------------

    async def commit(self, evidence: Evidence) -> Commit | None:
        """Append what the evidence calls for, then dispatch.

        Proposes again whenever another writer was first.
        """
        for _ in range(self.context.policy.proposals_max):
            await self.log.learn(self.state, needs_of(self.state, evidence))
            proposal = self.proposer.propose(
                self.state,
                evidence,
                now_ms=self.context.clock.now_ms(),
                commit_id=self.context.ids.nonce(),
            )
            if proposal.is_empty():
                self._forget_evidence()
                return None
            before = dict.fromkeys([*(s.task for s in proposal.settle), *proposal.retire])
            tasks = {task_id: self.state.tasks[task_id] for task_id in before}
            if await self.log.append(self.state, proposal):
                self._report_commit(proposal, tasks)
                await self._dispatch(proposal)
                await self._checkpoint_if_due()
                return proposal
            await self.catch_up()
        raise CommitConflict(
            f"other writers of {self.settings.name} were faster {self.context.policy.proposals_max}"
            " times; run again"
        )

    def _report_commit(self, commit: Commit, tasks: Mapping[str, Task]) -> None:
        """tasks: those that it ended, as they were before."""
        report.losses(self.report, commit, tasks, self._losses, self.settings)
        reasons = {task_id: lost.loss.reason for task_id, lost in self._losses.items()}
        self._forget_evidence()
        report.commit(self.report, commit, tasks, self.state, self.settings, self._counted)
        for event in events_of(commit, tasks, reasons, self.state):
            self.context.listener(event)
        self._progressed(self.report)

    async def catch_up(self) -> None:
        """Apply what others committed. Raises Outdated."""
        if not await self.log.catch_up(self.state):
            raise Outdated(
                f"the log of {self.settings.name} was collected while it was being used; run again"
            )

    def _progressed(self, so_far: PassReport) -> None:
        self.context.listener(Progressed(**self._named, report=so_far))

    @property
    def _named(self) -> dict[str, Any]:
        return {"pipeline": self.settings.name, "generation": self.settings.generation}

    def _forget_evidence(self) -> None:
        self._receipts, self._losses, self._held = {}, {}, 0

    async def _dispatch(self, commit: Commit) -> None:
        """Only after the append: work that no commit knows would never be settled."""
        wanted = [task.id for task in commit.plan if not task.merges] + [
            respawn.task for respawn in commit.respawn
        ]
        assignments = []
        for task_id in wanted:
            task, nonce = self.state.tasks[task_id], self.context.ids.nonce()
            self._attempts[nonce] = (task_id, task.attempt)
            self.context.listener(dispatched(task, self.settings.name))
            assignments.append(
                Assignment(
                    pipeline=self.settings.name, task=task, nonce=nonce, schema=self.state.schema
                )
            )
        if assignments:
            await self.context.executor.dispatch(assignments)

    async def _checkpoint_if_due(self) -> None:
        self._since_checkpoint += 1
        large = len(self.state.overlay) >= self.context.policy.overlay_max
        if large or self._since_checkpoint >= self.context.policy.checkpoint_every:
            await self.checkpoint()

    async def checkpoint(self) -> None:
        """Store the state as folded so far."""
        self._since_checkpoint = 0
        if self.state.sequence:
            await write_checkpoint(self.log, self.state, self.context.ids)

    async def settle(self, tasks: Iterable[str] | None = None) -> None:
        """Commit what receipts say, and nothing else; a pass makes up for what this does not
        come to.
        """
        await self.open()
        await self.gather(tasks)
        evidence = self._collected()
        evidence.runs_work = False
        await self.commit(evidence)

    async def change_generations(self, change: Change) -> Generations:
        """Begin, publish, roll back or drop a generation, in one commit.

        Raises SettingsError where that makes no sense.
        """
        await self.open()
        await self.commit(Evidence(base=self.state.sequence, runs_work=False, change=change))
        return self.state.generations or Generations()

    async def cancel(self, tasks: Iterable[str], reason: str) -> int:
        """End open tasks; what they would have published waits for a person. How many
        there were.
        """
        await self.open()
        wanted = {task: reason for task in tasks if task in self.state.tasks}
        commit = await self.commit(
            Evidence(base=self.state.sequence, runs_work=False, cancel=wanted)
        )
        return len(commit.retire) if commit is not None else 0

    async def requeue(self, names: Iterable[str]) -> int:
        """Let quarantined keys be planned again by the next pass; how many there were."""
        await self.open()
        commit = await self.commit(
            Evidence(base=self.state.sequence, runs_work=False, requeue=list(names))
        )
        return len(commit.requeue) if commit is not None else 0
