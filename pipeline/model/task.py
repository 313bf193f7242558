"""Inputs, the tasks made of them, and what a worker is handed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pipeline.model.listing import Page


def named_detached(owner: str) -> bool:
    """Whether the owner's name alone says `detached`, as it did before tasks said it themselves."""
    return owner.startswith("modal:")


class Inputs(msgspec.Struct, kw_only=True):
    """The source objects of one task, as parallel columns in the order they are processed."""

    keys: list[str]
    etags: list[str]
    sizes: list[int]
    modified_us: list[int]
    replaces: list[str | None]
    """For each key, the output that holds the rows of its previous version (None where there is
    none).
    """

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def empty(cls) -> Inputs:
        """None yet."""
        return Inputs(keys=[], etags=[], sizes=[], modified_us=[], replaces=[])

    @classmethod
    def new(cls, page: Page) -> Inputs:
        """The objects of a page, none of which was processed before."""
        return Inputs(
            keys=page.keys,
            etags=page.etags,
            sizes=page.sizes,
            modified_us=page.modified_us,
            replaces=[None] * len(page),
        )

    @classmethod
    def joined(cls, parts: Sequence[Inputs]) -> Inputs:
        """The inputs of several tasks as one."""
        if len(parts) == 1:
            return parts[0]
        return Inputs(
            **{
                name: [value for part in parts for value in getattr(part, name)]
                for name in cls.__struct_fields__
            }
        )

    def append(
        self, key: str, etag: str, size_bytes: int, modified_us: int, replaces: str | None
    ) -> None:
        """One more, at the end."""
        self.keys.append(key)
        self.etags.append(etag)
        self.sizes.append(size_bytes)
        self.modified_us.append(modified_us)
        self.replaces.append(replaces)

    def take(self, indexes: list[int]) -> Inputs:
        """The inputs at these positions, in this order."""
        return Inputs(
            keys=[self.keys[i] for i in indexes],
            etags=[self.etags[i] for i in indexes],
            sizes=[self.sizes[i] for i in indexes],
            modified_us=[self.modified_us[i] for i in indexes],
            replaces=[self.replaces[i] for i in indexes],
        )


class Task(msgspec.Struct, kw_only=True):
    """A unit of work that was committed: some source objects, one transform at one version, into
    one generation.
    """

    id: str
    transform: str
    version: str
    generation: int
    inputs: Inputs
    attempt: int
    """1 for the first dispatch; rises when an attempt died or ran past its deadline."""
    losses: int
    """Dispatches whose whole runner vanished; they do not count as attempts until there are many.
    """
    deadline_ms: int
    """After this moment of the committing runner's clock anyone may dispatch the task again."""
    owner: str
    """Who dispatched it last (see `ports.Executor.owner`)."""
    detached: bool = False
    """Its attempts outlive the pass that dispatched them: they queue elsewhere, and note that they
    began (see `ports.Executor.detached`).
    """
    reason: str = ""
    """Why the last attempt did not finish, where somebody saw it."""
    again: bool = False
    """Of objects that are processed once more at their committed version (a backfill): such tasks
    leave room for others.
    """
    merges: list[str] = []
    """A compaction: the outputs whose live rows are rewritten, together.

    It has no transform and no inputs.
    """

    def __post_init__(self) -> None:
        self.detached = self.detached or named_detached(self.owner)

    @property
    def dispatch(self) -> int:
        """Counts every dispatch of the task, whatever ended the one before: names what an attempt
        notes about itself.
        """
        return self.attempt + self.losses


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """A task as handed to a worker: the task, the attempt's own nonce, and the table's schema so
    far.
    """

    pipeline: str
    task: Task
    nonce: str
    schema: str | None
    """Base64 of the Arrow IPC schema message of the table so far, or None before the first rows."""
