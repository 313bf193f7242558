"""One ordered list of packages.

A package imports only what stands before it, and the core does no I/O.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

ORDER = (
    *(
        "pipeline._version",
        "pipeline.model",
        "pipeline.errors",
        "pipeline.wording",
        "pipeline.tracebacks",
        "pipeline.ports",
        "pipeline.sql",
    ),
    *(
        "pipeline.state",
        "pipeline.stores",
        "pipeline.plan",
        "pipeline.commit_log",
        "pipeline.work",
        "pipeline.notices",
    ),
    *(
        "pipeline.declare",
        "pipeline.discover",
        "pipeline.executors",
        "pipeline.passes",
    ),
    *(
        "sinks.values",
        "sinks.parquet",
        "sinks.results",
        "sinks.query",
        "sinks.aggregates",
        "sinks.copies",
        "sinks.targets",
        "sinks",
    ),
    *("pipeline.runtime", "pipeline.tables", "pipeline.testing", "pipeline.deploy"),
    *(
        "pipeline.cli",
        "pipeline.cli.reports",
        "pipeline.cli.tables",
        "pipeline.cli.runs",
        "pipeline.cli.setup",
    ),
    *("pipeline", "infra", "tidemill"),
)
FACES = ("pipeline", "sinks", "infra", "tidemill")
REACHES_UP = {("pipeline.declare.pipeline", "pipeline.tables.table")}
"""`Pipeline.table()`, for programs that read: the one import against the order, when it is called.
"""

PURE = ("pipeline.model", "pipeline.state", "pipeline.plan")
STEPPED = (
    "pipeline.state",
    "pipeline.plan",
    "pipeline.commit_log",
    "pipeline.discover",
    "pipeline.passes",
)
BESIDE_THE_PROTOCOL = {
    "pipeline.passes.audit",
    "pipeline.commit_log.store_probe",
    "pipeline.discover.inventory",
}
"""They gather requests or use threads; no simulation runs them."""

SHELL = {
    "asyncio",
    "boto3",
    "botocore",
    "duckdb",
    "http",
    "modal",
    "obstore",
    "os",
    "pathlib",
    "random",
    "socket",
    "subprocess",
}
SHELL |= {"tempfile", "threading", "time", "urllib", "uuid"}


def path_of(module: str) -> Path:
    path = ROOT / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def modules() -> tuple[str, ...]:
    found = []
    for package in FACES:
        for path in sorted((ROOT / package).rglob("*.py")):
            found.append(
                ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            )
    return tuple(found)


@cache
def imports(module: str) -> frozenset[str]:
    """Modules that a module imports, wherever in its text, but not for type checking alone."""
    tree = ast.parse(path_of(module).read_text())
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.If)
            and isinstance(node.test, ast.Name)
            and node.test.id == "TYPE_CHECKING"
        ):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in modules() else node.module for name in full}
    return frozenset(found - {module})


def ours(module: str) -> set[str]:
    return {name for name in imports(module) if name in modules()}


def place(module: str) -> int:
    """Of the longest entry of ORDER that covers a module.

    Raises ValueError: a new package needs a place.
    """
    names = module.split(".")
    covering = [name for n in range(len(names), 0, -1) if (name := ".".join(names[:n])) in ORDER]
    if not covering or (covering[0] == "pipeline" and module != "pipeline"):
        raise ValueError(f"{module} has no place: give its package one in ORDER")
    return ORDER.index(covering[0])


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_what_stands_before_its_package(module: str) -> None:
    later = {
        name
        for name in ours(module)
        if place(name) > place(module) and (module, name) not in REACHES_UP
    }
    assert not later


def test_no_imports_go_in_a_circle() -> None:
    """Within packages too, lazy imports counted."""
    left = {
        module: {name for name in ours(module) if (module, name) not in REACHES_UP}
        for module in modules()
    }
    while free := {module for module, needs in left.items() if not needs & left.keys()}:
        left = {module: needs for module, needs in left.items() if module not in free}
    assert not left


@pytest.mark.parametrize("module", [name for name in modules() if name.startswith(PURE)])
def test_the_core_does_no_input_or_output(module: str) -> None:
    assert not {name.split(".")[0] for name in imports(module)} & SHELL


def test_the_simulation_can_step_the_protocol() -> None:
    stepped = [
        name for name in modules() if name.startswith(STEPPED) and name not in BESIDE_THE_PROTOCOL
    ]
    assert [name for name in stepped if "asyncio" in imports(name)] == []


@pytest.mark.parametrize("module", modules())
def test_modules_stay_short(module: str) -> None:
    assert len(path_of(module).read_text().splitlines()) <= 400


def test_folders_stay_small() -> None:
    folders = {path_of(module).parent for module in modules()}
    assert {
        str(folder): n for folder in folders if (n := len(list(folder.glob("*.py")))) > 16
    } == {}


def test_the_architecture_page_lists_the_packages_in_order_each_with_its_own_sentence() -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    listed = dict(re.findall(r"^\| `([a-z_/]+)/` \| (.+?) \|", page, re.MULTILINE))
    packages = [name for name in ORDER if path_of(name).name == "__init__.py" and name not in FACES]
    assert list(listed) == [name.replace(".", "/") for name in packages]
    for name in packages:
        first = ast.get_docstring(ast.parse(path_of(name).read_text())) or ""
        assert (
            " ".join(first.split("\n\n")[0].split()).rstrip(".") == listed[name.replace(".", "/")]
        ), name


def test_nothing_heavy_is_imported_for_help() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pipeline.cli import invoke; invoke(['--help']);"
        " print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = set(done.stderr.split())
    assert loaded.isdisjoint(
        {"pyarrow", "duckdb", "boto3", "botocore", "obstore", "numpy", "pandas", "rich", "asyncio"}
    )
