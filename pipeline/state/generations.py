"""Generations of a table: what may become of them, and which of them a run fills. Pure.

Each is a table of its own, with its own log, below the pipeline's prefixes (see `keys`). The log of
the first one also says which of them is live, so that one commit there publishes a generation, or
rolls back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from pipeline.errors import SettingsError
from pipeline.model.commit import Generation, Generations


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What somebody wants of the generations.

    begin: a new one, or to go on with the candidate; of these versions of the code, with a sample
    of objects or all of them (None). publish: the candidate becomes live. rollback: the one before
    does. drop: the one of this number goes.
    """

    kind: Literal["begin", "publish", "rollback", "drop"]
    versions: dict[str, str] | None = None
    sample: int | None = None
    uploads: Literal["both", "live", "new"] | None = None
    number: int | None = None


def changed(pipeline: str, before: Generations | None, change: Change, now_ms: int) -> Generations:
    """The generations after a change. Raises SettingsError where it makes no sense."""
    known = before or Generations(kept=[Generation(number=0)])
    if change.kind == "begin":
        return _begun(pipeline, known, change, now_ms)
    if change.kind == "publish":
        return _published(pipeline, known)
    if change.kind == "rollback":
        if known.previous is None:
            raise SettingsError(f"{pipeline} has no earlier generation to roll back to")
        return msgspec.structs.replace(known, live=known.previous, previous=known.live)
    return _dropped(pipeline, known, change.number)


def _published(pipeline: str, known: Generations) -> Generations:
    if known.candidate is None:
        raise SettingsError(
            f"{pipeline} has no new generation to publish: fill one with  tidemill backfill"
            " --new-generation"
        )
    return msgspec.structs.replace(known, live=known.candidate, previous=known.live, candidate=None)


def _begun(pipeline: str, known: Generations, change: Change, now_ms: int) -> Generations:
    candidate = known.get(known.candidate) if known.candidate is not None else None
    if candidate is None:
        return _with_candidate(known, change, now_ms)
    if candidate.versions != dict(change.versions or {}):
        raise SettingsError(
            f"generation {candidate.number} of {pipeline} was begun by other code: publish it, or"
            f" drop it with  tidemill generations --drop {candidate.number}"
        )
    grown = _grown(candidate, change.sample)
    kept = [grown if one.number == grown.number else one for one in known.kept]
    return msgspec.structs.replace(known, kept=kept, uploads=change.uploads or known.uploads)


def _with_candidate(known: Generations, change: Change, now_ms: int) -> Generations:
    numbers = [*(generation.number for generation in known.kept), *known.dropped]
    fresh = Generation(
        number=1 + max(numbers, default=0),
        versions=dict(change.versions or {}),
        created_ms=now_ms,
        sample=change.sample,
    )
    return msgspec.structs.replace(
        known,
        candidate=fresh.number,
        kept=[*known.kept, fresh],
        uploads=change.uploads or "new",
    )


def _grown(candidate: Generation, sample: int | None) -> Generation:
    """The candidate, filled with at least that sample of the sources; None: with all of them."""
    larger = (
        candidate.sample
        if sample is None or candidate.sample is None
        else max(sample, candidate.sample)
    )
    return msgspec.structs.replace(candidate, sample=larger if sample is not None else None)


def _dropped(pipeline: str, known: Generations, number: int | None) -> Generations:
    if number is None or known.get(number) is None:
        raise _no_generation(pipeline, known, number)
    if number == known.live:
        raise SettingsError(
            f"generation {number} of {pipeline} is live: readers would find nothing"
        )
    return msgspec.structs.replace(
        known,
        kept=[generation for generation in known.kept if generation.number != number],
        dropped=[*known.dropped, number],
        previous=None if known.previous == number else known.previous,
        candidate=None if known.candidate == number else known.candidate,
    )


def kept_numbers(known: Generations) -> list[int]:
    """All generations that can be read, and the first one, whose log is always kept."""
    return sorted({0, *(generation.number for generation in known.kept)})


def filled(known: Generations | None, versions: dict[str, str]) -> list[int]:
    """The generations that a run of this code brings up to date, the live one first.

    A candidate is filled by the code it was begun with, and no other: whoever still runs older code
    goes on with the live one. A sample is filled by no run.
    """
    if known is None:
        return [0]
    candidate = known.get(known.candidate) if known.candidate is not None else None
    if (
        candidate is None
        or candidate.sample is not None
        or candidate.versions != versions
        or known.uploads == "live"
    ):
        return [known.live]
    return [known.live, candidate.number] if known.uploads == "both" else [candidate.number]


def _no_generation(pipeline: str, known: Generations, number: int | None) -> SettingsError:
    there = ", ".join(str(generation.number) for generation in known.kept)
    return SettingsError(f"{pipeline} has no generation {number}; there are: {there}")
