"""What a run shows while it works, where there is no terminal; and how figures read."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.cli.runs import progress
from pipeline.cli.runs.progress import Progress
from pipeline.model.pass_report import PassReport
from pipeline.wording import count, duration, printable, size


def test_plain_lines_count_what_running_attempts_are_done_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "FOLLOW_S", 0.0)

    async def work() -> None:
        shown = Progress("logs", quiet=False)
        shown.update(PassReport())
        assert capsys.readouterr().err == "", "nothing is under way"
        shown.update(
            PassReport(planned=10, committed=3, quarantined=1, rows=7, committed_bytes=100)
        )
        assert capsys.readouterr().err.startswith("logs: 4 of 10 files, 7 rows, ")
        following = asyncio.create_task(shown.follow(lambda: 5))
        for _ in range(3):
            await asyncio.sleep(0)
        following.cancel()
        assert capsys.readouterr().err.startswith("logs: 9 of 10 files, 7 rows, ")
        Progress("logs", quiet=True).update(PassReport(planned=10, committed=3))
        assert capsys.readouterr().err == "", "programs get no progress"

    asyncio.run(work())


def test_figures_for_people() -> None:
    assert [size(n) for n in (0, 999, 1_000, 1_234_567, 5e9, 7e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.2 MB",
        "5.0 GB",
        "7.0 TB",
    ]
    assert [count(n, "file") for n in (0, 1, 2, 1003)] == [
        "0 files",
        "1 file",
        "2 files",
        "1,003 files",
    ]
    assert [duration(s) for s in (0.04, 12.3, 125, 7300)] == [
        "0.0 s",
        "12 s",
        "2 min 5 s",
        "2 h 1 min",
    ]
    assert [printable(k) for k in ("a b", "new\nline", "é", "\x1b[31m")] == [
        "a b",
        "new\\nline",
        "é",
        "\\x1b[31m",
    ]
