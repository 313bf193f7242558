"""Nothing that was read from a bucket, a request or another process is ever run as code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "jsonpickle",
    "multiprocessing",
}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "read_pickle",
    "to_pickle",
    "unsafe_load",
    "full_load",
}
ALLOWED = {
    # the user's own pipeline file, named on the command line
    ("pipeline/declare/file_package.py", "exec_module"),
}


def findings(source: str, where: str) -> list[str]:
    """Uses of what can run data as code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [
                alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES
            ]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {node.module.split(".")[0], *(alias.name for alias in node.names)}
            found += sorted(names & FORBIDDEN_MODULES)
        elif isinstance(node, ast.Call):
            name = (
                node.func.id
                if isinstance(node.func, ast.Name)
                else node.func.attr
                if isinstance(node.func, ast.Attribute)
                else ""
            )
            # re.compile is another
            plain = isinstance(node.func, ast.Name) or name not in ("compile", "exec", "eval")
            yaml = (
                name in ("load", "load_all")
                and isinstance(node.func, ast.Attribute)
                and _is_named(node.func.value, "yaml")
            )
            allows = any(k.arg == "allow_pickle" and not _is_false(k.value) for k in node.keywords)
            if (name in FORBIDDEN_CALLS and plain) or name == "exec_module" or yaml or allows:
                found.append(name)
    return [one for one in found if (where, one) not in ALLOWED]


def _is_named(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


MODULES = [
    str(p.relative_to(ROOT))
    for package in ("pipeline", "sinks", "infra")
    for p in sorted((ROOT / package).rglob("*.py"))
]


def test_no_module_runs_data_as_code() -> None:
    bad = {
        where: found for where in MODULES if (found := findings((ROOT / where).read_text(), where))
    }
    assert len(MODULES) > 80
    assert bad == {}


def test_every_exception_is_used() -> None:
    """An allowance that nothing needs any more would hide the next use."""
    for where, name in ALLOWED:
        assert findings((ROOT / where).read_text(), "") == [name]


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from multiprocessing import reduction",
        "eval('1')",
        "exec(body)",
        "import yaml\nyaml.load(x)",
        "pd.read_pickle(p)",
        "np.load(p, allow_pickle=True)",
        "import cloudpickle as c",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert findings(source, "x.py")
