"""Who may import whom. The protocol knows no sink, no store, no executor and no command line."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

VALUES = {"errors", "model", "keys", "snapshot", "settings", "prices", "usage", "sizing", "pools", "tracebacks", "limits"}
VALUES |= {"parse_trees", "reserved", "databases", "printed", "_version"}
CORE = VALUES | {
    "wire",
    "runs",
    "ledger",
    "outputs",
    "checkpoint",
    "growth",
    "holdings",
    "generations",
    "state",
    "evidence",
    "entries",
}
CORE |= {"planner", "jobs", "cost", "orders", "generations", "entries"}
SHELL = CORE | {
    *("ports", "log", "discovery", "maintenance", "parts", "gathering", "runner", "objects", "worker", "contents", "home", "audit"),
    *("selection", "desk", "lookup", "compaction", "listing", "choosing", "merging", "tally", "attempt"),
    *("discover.request", "passes.upkeep"),
}
API = {"api", "loading", "neighbours", "options", "schedules", "fingerprints", "checks", "overlaps", "naming"}

ALLOWED: dict[str, set[str]] = {
    **{f"pipeline.{name}": {f"pipeline.{m}" for m in CORE} for name in CORE},
    **{f"pipeline.{name}": {f"pipeline.{m}" for m in SHELL} | {"pipeline.stores.probe"} for name in SHELL - CORE},
    **{f"pipeline.{name}": {f"pipeline.{m}" for m in VALUES | API} for name in API},
    # `Pipeline.table()` is for programs that read; what it needs is joined in `reading`, and imported when it is called
    "pipeline.api": {f"pipeline.{m}" for m in VALUES | API} | {"pipeline.reading"},
    "pipeline.arrow": set(),
    "pipeline.discover": set(),
    "pipeline.passes": set(),
    "pipeline.usercode": {"pipeline.tracebacks"},
    "pipeline.webhook": set(),
    "pipeline.notices": {"pipeline.webhook", "pipeline.errors", "pipeline.stores.s3_errors"},
    "pipeline.station": {f"pipeline.{m}" for m in CORE | {"ports", "desk"}},
    "pipeline.rates": {"pipeline.prices"},
    "pipeline.prefetch": {"pipeline.contents", "pipeline.model", "pipeline.ports"},
    "pipeline.stores": {f"pipeline.{m}" for m in VALUES | {"ports", "contents"}} | {"pipeline.stores"},
    "pipeline.executors": {f"pipeline.{m}" for m in VALUES | {"ports", "worker", "wire", "orders"}} | {"pipeline.executors"},
    "sinks": {f"pipeline.{m}" for m in CORE | {"ports", "checks"}} | {"sinks"},
}
COMPOSITION = (
    *("assembly", "aggregation", "preview", "replay", "doctor", "rented", "deployment", "engines", "submission", "cli"),
    *("inventory", "reading", "stages", "publishing", "repair", "foresight"),
)
ANYTHING = (*(f"pipeline.{name}" for name in COMPOSITION), "pipeline", "infra")


def modules() -> list[str]:
    found = []
    for package in ("pipeline", "sinks", "infra"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found.append(name.removesuffix(".__init__"))
    return found


def imports(module: str) -> set[str]:
    """Modules of ours that a module imports, wherever in its text, but not for type checking alone."""
    path = ROOT / Path(*module.split("."))
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{a.name}" if is_module(f"{node.module}.{a.name}") else node.module for a in node.names}
    return {name for name in found if name.split(".")[0] in ("pipeline", "sinks", "infra")}


def is_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def layer_of(module: str) -> str | None:
    """The longest rule that covers a module, None where anything goes."""
    if any(module == root or (root != "pipeline" and module.startswith(root + ".")) for root in ANYTHING):
        return None
    parts = module.split(".")
    for n in range(len(parts), 0, -1):
        name = ".".join(parts[:n])
        if name in ALLOWED:
            return name
    raise AssertionError(f"{module} belongs to no layer: give it one in tests/unit/test_layers.py")


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_what_its_layer_may(module: str) -> None:
    layer = layer_of(module)
    if layer is None:
        return
    allowed = ALLOWED[layer]
    bad = [name for name in imports(module) if not any(name == a or name.startswith(a + ".") for a in allowed)]
    assert bad == []


def test_the_protocol_uses_nothing_of_asyncio() -> None:
    """So that the simulation can step it. The audit gathers requests, and no simulation runs it."""
    for name in SHELL - {"audit"}:
        text = (ROOT / "pipeline" / f"{name.replace('.', '/')}.py").read_text()
        assert "import asyncio" not in text, name


@pytest.mark.parametrize("module", modules())
def test_modules_stay_short(module: str) -> None:
    path = ROOT / Path(*module.split("."))
    lines = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text().splitlines()
    assert len(lines) <= 400


def test_nothing_heavy_is_imported_for_help() -> None:
    import subprocess
    import sys

    code = "import sys; from pipeline.cli import invoke; invoke(['--help']); print(*sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stderr.split())
    assert loaded.isdisjoint({"pyarrow", "duckdb", "boto3", "botocore", "obstore", "numpy", "pandas", "rich", "asyncio"})
