"""What the lock files promise, and what the audit of them makes of a report."""

from __future__ import annotations

import datetime
import importlib.util
import re
from types import ModuleType

import pytest

from tests.support.helpers import ROOT

REPORT = {
    "dependencies": [
        {"name": "good", "version": "1", "vulns": []},
        {
            "name": "bad",
            "version": "2",
            "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3"]}],
        },
        {"name": "unknown", "skip_reason": "not found"},
    ]
}


def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_every_locked_package_has_one_version_and_hashes(name: str) -> None:
    """And no address of an index, so that a lock file cannot say where packages come from."""
    text = (ROOT / name).read_text()
    entries = text.replace("\\\n", " ").splitlines()
    assert len(entries) > 20
    for entry in entries:
        assert re.match(
            r"[a-z0-9._-]+==\S+( ; [^-]+)?( +--hash=sha256:[0-9a-f]{64})+\s*$", entry
        ), entry
    assert "://" not in text


def test_a_vulnerability_fails_unless_it_is_ignored_today() -> None:
    module, today = audit(), datetime.date(2026, 1, 2)
    lines = ["bad 2: PYSEC-1, fixed in 3"]
    assert module.verdict(REPORT, set()) == (lines, 2, 1)
    assert module.verdict(REPORT, {"CVE-1"}) == ([], 2, 1)
    assert module.ignored("# why\nCVE-1 until 2026-01-02 we never call it\n", today) == {"CVE-1"}
    assert module.ignored("CVE-1 until 2026-01-01 we never call it\n", today) == set()
    with pytest.raises(ValueError, match="is not: ID until"):
        module.ignored("CVE-1\n", today)


def test_the_audit_fails_or_says_that_it_was_not_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = audit()
    monkeypatch.setattr(module, "audited", lambda locks: REPORT)
    assert module.main([]) == 1
    assert "bad 2: PYSEC-1" in capsys.readouterr().err

    def unreachable(locks: list[str]) -> object:
        raise OSError("no network")

    monkeypatch.setattr(module, "audited", unreachable)
    assert module.main([]) == 0
    assert "audit: not done" in capsys.readouterr().out
    monkeypatch.setattr(
        module, "audited", lambda locks: {"dependencies": REPORT["dependencies"][2:]}
    )
    assert module.main([]) == 0
    assert "audit: not done, the advisory service knows none of 1" in capsys.readouterr().out
