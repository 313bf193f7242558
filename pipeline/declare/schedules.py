"""Schedules as users write them: five cron fields and a time zone, or a period.

Checked here, since Modal's client does not.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from pipeline.errors import SettingsError

PERIOD_MIN_S = 5.0


def checked_schedule(label: str, value: object) -> str | float | None:
    """A cron string, a period in seconds, or None.

    Raises SettingsError for a schedule that never comes or is none.
    """
    if value is None:
        return None
    if isinstance(value, timedelta):
        if value.total_seconds() < PERIOD_MIN_S:
            raise SettingsError(
                f"{label}={value!r}: a period has at least {PERIOD_MIN_S:g} seconds"
            )
        return value.total_seconds()
    if not isinstance(value, str):
        raise SettingsError(
            f'{label}={value!r}: write a cron string like "*/5 * * * *", or a datetime.timedelta'
        )
    return _checked_cron(label, value)


def _checked_cron(label: str, value: str) -> str:
    from cronsim import CronSim, CronSimError

    if len(value.split()) != 5:
        raise SettingsError(
            f"{label}={value!r}: a cron string has five fields: minute, hour, day of month, month,"
            " day of week"
        )
    try:
        next(CronSim(value, datetime(2026, 1, 1)))  # noqa: DTZ001 - any moment serves
    except (CronSimError, StopIteration) as error:
        why = str(error).lower() or "it never comes"
        raise SettingsError(
            f'{label}={value!r}: {why}; write it like "*/5 * * * *" (every five minutes)'
        ) from None
    return value


_OF_THE_MACHINE = re.compile(r"\A(localtime|posixrules|Factory|(posix|right)/.*)\Z")
"""Names in a machine's own copy of the time zone database, which mean something else elsewhere, or
nothing.
"""


def checked_timezone(label: str, value: object) -> str:
    """A time zone's name. Raises SettingsError for a name that the time zone database lacks."""
    try:
        ZoneInfo(_OF_THE_MACHINE.sub("", value))  # type: ignore[call-overload]
    except (KeyError, ValueError, TypeError, OSError):
        raise SettingsError(
            f'{label}={value!r} is no time zone; write one like "Europe/Riga" or "UTC"'
        ) from None
    return str(value)
