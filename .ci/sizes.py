"""How large functions are, and how long lines: fails where most are no longer small.

    python .ci/sizes.py pipeline sinks infra

A function's size is the number of nodes in the syntax tree of its body, without its docstring:
unlike lines, nobody can format that away. Standard library only.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PRAGMA = re.compile(r"  # (?:noqa|type: ignore).*")
"""What is for tools does not count."""
NODES_P90 = 90
COLUMNS = 100
LONG_LINES = (
    "pipeline/cli/runs/failure_groups.py",
    "pipeline/sql/reserved_words.py",
    "pipeline/tracebacks.py",
)
"""Regular expressions, which nobody reads better in pieces."""
LARGE = 260
"""No function may be larger, but for these."""
EXCEPTIONS = {
    "pipeline/declare/pipeline.py:Pipeline.__init__": "one attribute for each parameter",
    "sinks/values/contract.py:rules": "a table: a line for each type",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield prefix + node.name, node
        inner = f"{prefix}{node.name}." if isinstance(node, Function | ast.ClassDef) else prefix
        yield from functions(node, inner)


def nodes(function: Function) -> int:
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    every = [node for statement in body for node in ast.walk(statement)]
    return sum(not isinstance(node, ast.expr_context) for node in every)


def main(folders: list[str]) -> int:
    sizes: list[tuple[int, str]] = []
    problems: list[str] = []
    for path in sorted(path for folder in folders for path in Path(folder).rglob("*.py")):
        text = path.read_text()
        for number, line in enumerate(text.splitlines(), 1):
            columns = len(PRAGMA.sub("", line))
            if columns > COLUMNS and str(path) not in LONG_LINES:
                problems.append(f"{path}:{number}: {columns} columns, at most {COLUMNS}")
        sizes += [
            (nodes(function), f"{path}:{name}") for name, function in functions(ast.parse(text))
        ]
    sizes.sort()
    p90 = sizes[len(sizes) * 9 // 10][0]
    if p90 > NODES_P90:
        problems.append(f"one function in ten has more than {p90} nodes, at most {NODES_P90}")
    for n, name in sizes:
        if n > LARGE and name not in EXCEPTIONS:
            problems.append(f"{name}: {n} nodes, at most {LARGE}")
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    median, (most, where) = sizes[len(sizes) // 2][0], sizes[-1]
    figures = f"median {median} nodes, p90 {p90}, largest {most} ({where})"
    sys.stdout.write(f"{len(sizes):,} functions: {figures}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
