"""Options of a `Pipeline` and of its backfills, each checked.

Raises SettingsError, with one line, for what cannot work.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

from pipeline.declare.checked_values import between, one_of, strings
from pipeline.declare.declared_names import checked_dollars, checked_prefix
from pipeline.declare.schedules import checked_schedule, checked_timezone
from pipeline.errors import SettingsError
from pipeline.model.settings import DAY_S, BackfillSettings, CostLimits, DeploymentSettings

Listing = Literal["auto", "whole", "growing"]
Access = Literal["mount", "api"]
LISTINGS: tuple[Listing, ...] = ("auto", "whole", "growing")
ACCESSES: tuple[Access, ...] = ("mount", "api")


def checked_output(name: str, output: str | None) -> str:
    """The prefix below which a pipeline writes."""
    return checked_prefix(name, "output", f"tables/{name}/" if output is None else output)


def checked_file_bytes(label: str, file_mb: float) -> int:
    """The size of file that compaction aims at."""
    return int(between(label, "file_mb", file_mb, 0.001, 4096) * 2**20)


def checked_retention_s(label: str, retention_days: float) -> float:
    """How long superseded rows stay."""
    return between(label, "retention_days", retention_days, 0, 3650) * DAY_S


def checked_listing(label: str, listing: Listing, *, reads_table: bool) -> Listing:
    """How to list; another pipeline's table is always listed whole."""
    checked = one_of(label, "listing", listing, LISTINGS)
    return "whole" if reads_table else checked


def checked_deployment(
    label: str,
    *,
    schedule: str | timedelta | None,
    sweep: str | timedelta | None,
    timezone: str,
    access: Access,
    pip: Sequence[str],
    apt: Sequence[str],
) -> DeploymentSettings:
    """What counts once the pipeline is deployed."""
    return DeploymentSettings(
        schedule=checked_schedule(f"{label}: schedule", schedule),
        sweep=checked_schedule(f"{label}: sweep", sweep),
        timezone=checked_timezone(f"{label}: timezone", timezone),
        access=one_of(label, "access", access, ACCESSES),
        pip=strings(label, "pip", pip),
        apt=strings(label, "apt", apt),
    )


def checked_cost(label: str, run_usd: float | None, day_usd: float | None) -> CostLimits:
    """What a run, and a day, may cost."""
    return CostLimits(
        run_usd=checked_dollars(label, "max_cost_usd", run_usd),
        day_usd=checked_dollars(label, "max_cost_usd_per_day", day_usd),
    )


def checked_backfill(
    label: str,
    name: str,
    schedule: str | timedelta,
    since: timedelta | None,
    *,
    prefix: str,
    outdated: bool,
) -> BackfillSettings:
    """A backfill, which must have a schedule."""
    checked = checked_schedule(f"{label}: schedule", schedule)
    if checked is None:
        raise SettingsError(f"{label}: schedule= is missing")
    since_s = since.total_seconds() if since is not None else None
    if since_s is not None:
        between(label, "since", since_s, 1, 3650 * DAY_S)
    return BackfillSettings(
        name=name, schedule=checked, prefix=prefix, since_s=since_s, outdated=outdated
    )


def require_transforms(name: str, transforms: Sequence[object]) -> None:
    """Refuse a pipeline that does nothing."""
    if not transforms:
        raise SettingsError(
            f"pipeline {name} has no transform: decorate a function with @{name}.transform"
        )
