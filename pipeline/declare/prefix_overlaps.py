"""Loop guards: what is written must never be what is read.

Checked when pipelines are declared, alone and together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pipeline.errors import SettingsError
from pipeline.model import keys


class Named(Protocol):
    @property
    def name(self) -> str: ...


class Writes(Protocol):
    @property
    def writes(self) -> str | None: ...


class Prefixes(Protocol):
    """What a pipeline declares of where it reads and writes."""

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def output(self) -> str: ...
    @property
    def aggregates(self) -> Sequence[Named]: ...
    @property
    def dimensions(self) -> Sequence[Named]: ...
    @property
    def sinks(self) -> Mapping[str, Writes]: ...


def refuse_overlap(name: str, source: str, output: str) -> None:
    """The loop guard: what a pipeline writes must never be what it, or another one, reads."""
    for prefix, what in (
        (output, f"the output prefix {output!r}"),
        (keys.HOMES, f"Tidemill's own prefix {keys.HOMES!r}"),
    ):
        if source.startswith(prefix) or prefix.startswith(source):
            raise SettingsError(
                f"pipeline {name}: the source prefix {source!r} overlaps {what}: outputs would be"
                " processed as new uploads; choose prefixes where neither begins with the other"
            )


def refuse_sink_overlap(pipeline: str, sink: str, writes: str, other: Prefixes) -> None:
    """The loop guard for what sinks write: never where a pipeline reads, nor where its own rows and
    state are.
    """
    label = f"pipeline {pipeline}, sink {sink}"
    for prefix, what in (
        (other.source, f"the source prefix {other.source!r} of pipeline {other.name}"),
        (other.output, f"the output prefix {other.output!r} of pipeline {other.name}"),
        (keys.HOMES, f"Tidemill's own prefix {keys.HOMES!r}"),
    ):
        if writes.startswith(prefix) or prefix.startswith(writes):
            raise SettingsError(f"{label}: {writes!r} overlaps {what}; choose another place for it")


def check_together(pipelines: Sequence[Prefixes]) -> None:
    """Pipelines of one bucket: distinct names and tables, and no loops between them.

    Raises SettingsError.
    """
    taken: dict[str, str] = {}
    for p in pipelines:
        _take_table_names(p, taken)
        others = [other for other in pipelines if other is not p]
        for name, target in p.sinks.items():
            for other in others:
                if target.writes is not None:
                    refuse_sink_overlap(p.name, name, target.writes, other)
        for other in others:
            if p.output.startswith(other.output):
                raise SettingsError(
                    f"pipelines {other.name} and {p.name} write below the same prefix {p.output!r}"
                )
            refuse_overlap(p.name, p.source, other.output)


def _take_table_names(p: Prefixes, taken: dict[str, str]) -> None:
    """Note whose they are. Raises SettingsError for one that another pipeline has."""
    for table in (p.name, *(a.name for a in p.aggregates), *(d.name for d in p.dimensions)):
        if table in taken:
            raise SettingsError(
                f"the table name {table!r} is used by pipelines {taken[table]} and {p.name}:"
                " rename one"
            )
        taken[table] = p.name
