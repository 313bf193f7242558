"""The outputs that hold live rows: the latest in memory and in the checkpoint itself, older ones in
runs beside the ledger's.

A pass looks up the few whose sources change; readers load all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING

import msgspec

from pipeline.errors import InvariantViolated, StateInvalid
from pipeline.model.snapshot import Output
from pipeline.state.sorted_runs import Run, SortedRuns

if TYPE_CHECKING:
    import pyarrow as pa

_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(Output, strict=True).decode


class Outputs(Mapping[str, Output]):
    """Output id -> its files and dead keys.

    Asking for one that was not looked up, or for all while some are in runs alone, raises
    InvariantViolated: an answer from what happens to be at hand would be wrong.
    """

    def __init__(
        self,
        changed: dict[str, Output] | None = None,
        gone: Iterable[str] = (),
        runs: Iterable[Run] = (),
    ) -> None:
        self.runs: SortedRuns = SortedRuns(runs)
        self.changed: dict[str, Output | None] = {**(changed or {}), **dict.fromkeys(gone)}
        """What is not in the runs yet; None: not live any more."""
        self._found: dict[str, Output | None] = {}
        self._whole = False

    # -- reading -----------------------------------------------------------------------------------

    def knows(self, output: str) -> bool:
        """Whether its value is known without another look at the runs."""
        return (
            output in self.changed
            or output in self._found
            or self.is_whole
            or not self.runs.may_hold(output)
        )

    @property
    def is_whole(self) -> bool:
        """Whether all of them are at hand."""
        return self._whole or not self.runs.runs

    def _get(self, output: str) -> Output | None:
        if output in self.changed:
            return self.changed[output]
        if not self.knows(output):
            raise InvariantViolated(f"output {output} was not looked up")
        return self._found.get(output)

    def __getitem__(self, output: str) -> Output:
        found = self._get(output)
        if found is None:
            raise KeyError(output)
        return found

    def __iter__(self) -> Iterator[str]:
        if not self.is_whole:
            raise InvariantViolated("the outputs were not loaded whole")
        yield from (
            name
            for name, value in self._found.items()
            if value is not None and name not in self.changed
        )
        yield from (name for name, value in self.changed.items() if value is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    # -- changing ----------------------------------------------------------------------------------

    def __setitem__(self, output: str, value: Output) -> None:
        self.changed[output] = value

    def __delitem__(self, output: str) -> None:
        if output in self._found or self.runs.may_hold(output):
            self.changed[output] = None
        else:
            del self.changed[output]

    def learn(self, names: Iterable[str], rows: pa.Table, *, whole: bool = False) -> None:
        """What the runs hold for these outputs, or for all: `rows`, and nothing for the others."""
        self._found.update(dict.fromkeys(names))
        for name, body in zip(
            rows.column("key").to_pylist(), rows.column("output").to_pylist(), strict=True
        ):
            self._found[name] = _parse(name, body) if body is not None else None
        self._whole = self._whole or whole

    def replace(self, runs: SortedRuns, *, changed: bool) -> None:
        """The runs were rewritten, with the changes merged in or without."""
        self._whole, self.runs = self.is_whole, runs
        if changed:
            self._found.update(self.changed)
            self.changed = {}

    def rebase(self, changed: Mapping[str, Output], gone: Iterable[str], runs: SortedRuns) -> None:
        """Other runs, which lack only what is in `changed` and `gone`, and what changed here."""
        self.changed = {**changed, **dict.fromkeys(gone), **self.changed}
        self._whole, self.runs = self.is_whole, runs

    def live(self) -> dict[str, Output]:
        """Those in `changed` that are live: what a checkpoint holds itself."""
        return {name: value for name, value in self.changed.items() if value is not None}

    def gone(self) -> list[str]:
        """Those in the runs that are not live any more."""
        return sorted(name for name, value in self.changed.items() if value is None)


def _parse(name: str, body: bytes) -> Output:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StateInvalid(f"output {name} in a run is damaged: {error}") from None


@cache
def schema() -> pa.Schema:
    """Of a run of outputs."""
    import pyarrow as pa

    return pa.schema([("key", pa.string()), ("output", pa.binary())])


def table_of(changed: Mapping[str, Output | None]) -> pa.Table:
    """The changes as a sorted table; None becomes a tombstone."""
    import pyarrow as pa

    names = sorted(changed)
    bodies = [_encode(value) if (value := changed[name]) is not None else None for name in names]
    return pa.Table.from_arrays(
        [pa.array(names, pa.string()), pa.array(bodies, pa.binary())], schema=schema()
    )
