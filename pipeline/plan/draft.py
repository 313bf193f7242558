"""One commit while it is written, and what every rule needs for that. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.model import keys
from pipeline.model.commit import FORMAT_VERSION, Commit, Quarantined, Respawn
from pipeline.model.loss import Loss
from pipeline.model.policy import Policy
from pipeline.model.settings import PipelineSettings, TransformSettings
from pipeline.model.task import Inputs, Task
from pipeline.plan.evidence import Evidence
from pipeline.state.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Who proposes, and under which settings: the same for every commit of a pass."""

    settings: PipelineSettings
    policy: Policy
    owner: str
    detached: bool
    writer: str
    parallelism: int
    is_gone: Callable[[str], bool]
    unify: Callable[[str | None, str], str]
    """The table's schema with another one added; raises InputRejected where they contradict each
    other.
    """

    def blank(self, state: State, *, now_ms: int, commit_id: str) -> Commit:
        """An empty commit that follows `state`."""
        return Commit(
            format=FORMAT_VERSION,
            sequence=state.sequence + 1,
            id=commit_id,
            previous=state.id,
            pipeline=self.settings.name,
            generation=self.settings.generation,
            writer=self.writer,
            written_ms=now_ms,
        )


class Draft:
    """One commit being written, with the keys it has already decided about."""

    def __init__(
        self, writer: Writer, state: State, evidence: Evidence, now_ms: int, commit_id: str
    ) -> None:
        self.writer = writer
        self.state = state
        self.evidence = evidence
        self.now_ms = now_ms
        self.schema: str | None = state.schema
        self.decided: set[str] = set()
        self.ended: set[str] = set()
        self.commit: Commit = writer.blank(state, now_ms=now_ms, commit_id=commit_id)

    def quarantine_lost(self, task: Task, i: int, loss: Loss) -> None:
        """No attempt gave an answer: the file may be poison or the machines unwell, so it is tried
        again, ever later.
        """
        policy, key, etag = self.writer.policy, task.inputs.keys[i], task.inputs.etags[i]
        before = self.state.quarantine.get(key)
        tries = (
            before.tries + 1
            if before is not None and before.etag == etag and before.kind == "lost"
            else 1
        )
        transform = self.writer.settings.transform(task.transform)
        for_good = tries >= policy.lost_tries_max or (
            transform is not None and not transform.safe_to_rerun
        )
        wait_s = min(policy.lost_backoff_s * 2 ** (tries - 1), policy.lost_backoff_max_s)
        self.commit.quarantine.append(
            Quarantined(
                key=key,
                etag=etag,
                kind="lost",
                reason=loss.reason,
                detail=loss.detail,
                tries=tries,
                retry_at_ms=0 if for_good else self.now_ms + int(1000 * wait_s),
                task=task.id,
                transform=task.transform,
                version=task.version,
                size_bytes=task.inputs.sizes[i],
            )
        )

    def respawn(self, task: Task, *, attempt: int, losses: int, reason: str) -> None:
        transform = self.writer.settings.transform(task.transform)
        if transform is None or transform.version != task.version:
            self.commit.retire.append(task.id)
            return
        self.commit.respawn.append(
            Respawn(
                task=task.id,
                attempt=attempt,
                losses=losses,
                deadline_ms=self.deadline_ms(transform),
                owner=self.writer.owner,
                detached=self.writer.detached,
                reason=reason,
            )
        )

    def plan_again(self, task: Task, inputs: Inputs) -> None:
        transform = self.writer.settings.transform(task.transform)
        if transform is not None and transform.version == task.version:
            self.plan(transform, task.version, inputs, again=task.again)

    def plan(
        self, transform: TransformSettings, version: str, inputs: Inputs, *, again: bool
    ) -> None:
        self.decided.update(inputs.keys)
        self.commit.plan.append(
            self.task(
                transform.name,
                version,
                deadline_ms=self.deadline_ms(transform),
                inputs=inputs,
                again=again,
            )
        )

    def task(self, transform: str, version: str, *, deadline_ms: int, **rest: Any) -> Task:
        rest.setdefault("inputs", Inputs.empty())
        return Task(
            id=keys.task_id(self.commit.sequence, len(self.commit.plan)),
            transform=transform,
            version=version,
            generation=self.commit.generation,
            attempt=1,
            losses=0,
            deadline_ms=deadline_ms,
            owner=self.writer.owner,
            detached=self.writer.detached,
            **rest,
        )

    def deadline_ms(self, transform: TransformSettings) -> int:
        ahead = len(self.state.tasks) + len(self.commit.plan)
        return self.now_ms + self.writer.policy.lease_ms(transform, ahead=ahead)
