"""Audits the lock files for known vulnerabilities, with pip-audit in an environment of its own.

Standard library only.

    python .ci/audit.py requirements.lock requirements-dev.lock

Exit code 1 for a vulnerability that ignored-vulnerabilities.txt does not name, or names with a date
that has passed. Where the advisory service or the tool cannot be had, that is said in one line and
is no failure.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TextIO

HERE = Path(__file__).parent
TOOL = HERE.parent / ".venv" / "audit"
IGNORED = HERE / "ignored-vulnerabilities.txt"
LIMIT_S = 60


def ignored(text: str, today: datetime.date) -> set[str]:
    """Ids that are ignored today: lines `ID until YYYY-MM-DD why`.

    Raises ValueError for a line that is none.
    """
    found = set()
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            words = line.split(maxsplit=3)
            if len(words) < 4 or words[1] != "until":
                raise ValueError(f"{IGNORED.name}: {line!r} is not: ID until YYYY-MM-DD why")
            if today <= datetime.date.fromisoformat(words[2]):
                found.add(words[0])
    return found


def verdict(report: dict, known: set[str]) -> tuple[list[str], int, int]:
    """Vulnerabilities in words, and how many packages were looked up and not looked up."""
    lines, asked, unasked = [], 0, 0
    for package in report["dependencies"]:
        if "skip_reason" in package:
            unasked += 1
            continue
        asked += 1
        for found in package["vulns"]:
            if known.isdisjoint({found["id"], *found.get("aliases", ())}):
                fix = (
                    f", fixed in {', '.join(found['fix_versions'])}"
                    if found.get("fix_versions")
                    else ""
                )
                lines.append(f"{package['name']} {package['version']}: {found['id']}{fix}")
    return lines, asked, unasked


def main(locks: list[str]) -> int:
    """The command."""
    try:
        known = ignored(IGNORED.read_text(), datetime.date.today())  # noqa: DTZ011 - a day's difference does no harm
    except ValueError as error:
        _say(f"audit: {error}", sys.stderr)
        return 2
    try:
        report = audited(locks)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        _say(
            "audit: not done, pip-audit or the advisory service cannot be reached"
            f" ({type(error).__name__})"
        )
        return 0
    lines, asked, unasked = verdict(report, known)
    for line in lines:
        _say(f"audit: {line}", sys.stderr)
    if not asked:
        _say(
            f"audit: not done, the advisory service knows none of {unasked} packages: it cannot be"
            " reached from here"
        )
    else:
        _say(f"audit: {asked} packages looked up, {unasked} not, {len(lines)} vulnerabilities")
    return 1 if lines else 0


def _say(text: str, where: TextIO | None = None) -> None:
    (where or sys.stdout).write(f"{text}\n")


def audited(locks: list[str]) -> dict:
    """pip-audit's report. It resolves nothing: the lock files name all packages, with hashes."""
    python = TOOL / "bin" / "python"
    if not python.exists():
        subprocess.run(
            [sys.executable, "-m", "venv", str(TOOL)],
            check=True,
            capture_output=True,
            timeout=LIMIT_S,
        )
    install = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "pip-audit>=2.9,<3",
    ]
    subprocess.run(install, check=True, capture_output=True, timeout=LIMIT_S)
    files = [word for lock in locks for word in ("-r", lock)]
    options = [
        "--disable-pip",
        "--require-hashes",
        "--format",
        "json",
        "--progress-spinner",
        "off",
        "--timeout",
        "10",
    ]
    command = [python, "-m", "pip_audit", *files, *options]
    quiet = {**os.environ, "PIP_NO_INPUT": "1"}
    # 1: it found some
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=LIMIT_S, env=quiet
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
