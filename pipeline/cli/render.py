"""How figures and tables look on a terminal."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from typing import Any

import click

from pipeline.wording import printable


def as_json(value: Any) -> None:
    """One JSON document on standard output: always a list of objects, so that what reads one
    command reads all.
    """
    found = value if isinstance(value, list) else [value]
    click.echo(json.dumps(found, indent=2, default=str, ensure_ascii=False, allow_nan=False))


def table(
    headings: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: Sequence[int] = ()
) -> None:
    """A plain table; wide cells fold on a terminal and stay whole in a pipe."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(
        file=sys.stdout, width=None if sys.stdout.isatty() else 10_000, highlight=False
    )
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, heading in enumerate(headings):
        drawn.add_column(
            heading,
            justify="right" if i in numbers else "left",
            overflow="fold",
            no_wrap=not sys.stdout.isatty(),
        )
    for row in rows:
        drawn.add_row(*(Text(cell(value)) for value in row))
    console.print(drawn)


def _float(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value and abs(value) < 0.001:
        return f"{value:.3g}"
    return f"{value:,.3f}".rstrip("0").rstrip(".") if abs(value) < 1e15 else repr(value)


def cell(value: object) -> str:
    """One value in a table."""
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return _float(value)
    return printable(str(value))


def dollars(usd: float) -> str:
    """Dollars for people: $1,234.50, $0.0042, and never $0.00 for something."""
    if usd >= 1:
        return f"${usd:,.2f}"
    return f"${usd:.4f}" if usd >= 0.0001 or not usd else "under $0.0001"
