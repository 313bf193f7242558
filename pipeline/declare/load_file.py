"""From `FILE` on the command line to declared pipelines: `path/to/file.py`, `module`, either with
`:name` for one pipeline.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType

from pipeline.declare.file_package import (
    OWN,
    execute,
    is_ours,
    is_taken,
    own_of,
    package_of,
    share_names,
)
from pipeline.declare.pipeline import Pipeline
from pipeline.declare.prefix_overlaps import check_together
from pipeline.errors import SettingsError, nearest
from pipeline.tracebacks import describe, is_library, is_own


def load_pipelines(file: str) -> list[Pipeline]:
    """The pipelines that FILE declares, in order.

    Raises SettingsError, with one line, where there are none.
    """
    target, _, name = file.partition(":") if file[1:3] != ":\\" else (file, "", "")
    _refuse_folder(target)
    module = _import(target)
    found = _declared(module, target)
    check_together(found)
    for p in found:
        p.settings()
    if not name:
        return found
    chosen = [p for p in found if p.name == name or vars(module).get(name) is p]
    if not chosen:
        raise _no_pipeline(target, name, found)
    return chosen


def _no_pipeline(target: str, name: str, found: list[Pipeline]) -> SettingsError:
    close = nearest(name, [p.name for p in found])
    return SettingsError(f"{target} declares no pipeline {name!r}{close}")


def _declared(module: ModuleType, target: str) -> list[Pipeline]:
    found: list[Pipeline] = []
    for value in vars(module).values():
        if isinstance(value, Pipeline) and value not in found:
            found.append(value)
    if not found:
        raise SettingsError(
            f"{target} declares no Pipeline: write one at its top level, like flights ="
            ' Pipeline("flights", ...)'
        )
    return found


def _refuse_folder(target: str) -> None:
    """Raises SettingsError for a folder, and for nothing at all, where a file was meant."""
    if not target.strip():
        raise SettingsError(
            "FILE is empty: give the file that declares the pipelines, like flows.py"
        )
    if not set(target) <= {".", "/"} and not (is_path(target) and Path(target).is_dir()):
        return
    found = (
        sorted(path for path in Path(target).glob("*.py") if _declares(path))
        if Path(target).is_dir()
        else []
    )
    named = f", like {found[0]}" if found else ", like flows.py"
    raise SettingsError(
        f"{target} is a directory: give the file in it that declares the pipelines{named}"
    )


def _declares(path: Path) -> bool:
    try:
        return "Pipeline(" in path.read_text("utf-8", "replace")
    except OSError:
        return False


def is_path(target: str) -> bool:
    """Whether FILE (without `:name`) is a file's path; else it is a module's name."""
    return target.endswith(".py") or "/" in target


def _import(target: str) -> ModuleType:
    if is_path(target):
        return _import_file(target)
    here = Path.cwd()
    _add_path(here)
    share_names(here)
    try:
        with _explained(target), user_output_aside():
            return importlib.import_module(target)
    except _Missing as missing:
        if target == missing.name or target.startswith(f"{missing.name}."):
            if Path(target).is_file():
                raise SettingsError(
                    f"{target} is no Python file: give one that declares the pipelines, like"
                    " flows.py"
                ) from None
            raise SettingsError(
                f"{target!r} is neither a file (write {target}.py) nor a module that can be"
                " imported"
            ) from None
        raise


def _import_file(target: str) -> ModuleType:
    path = Path(target)
    if not path.is_file():
        raise SettingsError(f"there is no file {path}")
    with _explained(target), user_output_aside():
        return _import_path(path)


class _Missing(SettingsError):
    """A module that was to be imported is not there."""

    name = ""


@contextlib.contextmanager
def _explained(target: str) -> Iterator[None]:
    """What goes wrong in the user's file as one line. A process that it forks ends with it."""
    process = os.getpid()
    try:
        yield
    except SettingsError:
        raise
    except ModuleNotFoundError as error:
        missing = _Missing(_where(error, target))
        missing.name = error.name or ""
        raise missing from error
    except (Exception, SystemExit) as error:
        raise SettingsError(_where(error, target)) from error
    finally:
        if os.getpid() != process:
            os._exit(1)


@contextlib.contextmanager
def user_output_aside() -> Iterator[None]:
    """What user code prints, and programs that it calls, goes to standard error: standard output is
    for our results.
    """
    sys.stdout.flush()
    try:
        kept = os.dup(1)
        os.dup2(2, 1)
    except OSError:
        kept = -1
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if kept >= 0:
            os.dup2(kept, 1)
            os.close(kept)


def _add_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _import_path(path: Path) -> ModuleType:
    root, names = package_of(path)
    share_names(root, but=path)
    share_names(path.resolve().parent, but=path)
    name = _name_in_package(root, names) if len(names) > 1 else _name_alone(path)
    known = sys.modules.get(name)
    if known is not None:
        return known
    _add_path(path.resolve().parent)
    try:
        return _run(name, path)
    except ModuleNotFoundError as error:
        project = _project_of(error, path)
        if project is None:
            raise
        _add_path(project)  # a package without __init__.py, named from its project's folder
        return _run(name, path)


def _project_of(missing: ModuleNotFoundError, path: Path) -> Path | None:
    """Where the missing module would be found, if the file lies in the same package as it."""
    package = (missing.name or "").partition(".")[0]
    return next((p.parent for p in path.resolve().parents if p.name == package), None)


def _run(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, loader=_Fresh(name, str(path)))
    return execute(spec, known=True)


def _name_alone(path: Path) -> str:
    """The file's own name; where that belongs to another module, one that keeps both."""
    name = path.stem
    known = sys.modules.get(name)
    if (
        known is not None
        and getattr(known, "__file__", None)
        and Path(str(known.__file__)).resolve() == path.resolve()
    ):
        return name
    return (
        _private(name, path)
        if known is not None or name in sys.stdlib_module_names or _is_installed(name, path)
        else name
    )


def _private(name: str, path: Path) -> str:
    return f"tidemill_user_{name}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"


def _name_in_package(root: Path, names: tuple[str, ...]) -> str:
    """The file's name below its packages, which are imported.

    Where the outermost one's name is taken, they have another.
    """
    _add_path(root)
    folder = root / names[0]
    name = ".".join(names)
    if is_taken(names[0], folder) or (names[0] in OWN and is_ours(name)):
        top = _private(names[0], folder)
        if top not in sys.modules:
            _import_package_as(top, folder)
        name = ".".join((top, *names[1:]))
    importlib.import_module(name.rpartition(".")[0])
    return name


def _import_package_as(name: str, folder: Path) -> None:
    execute(
        importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        ),
        known=True,
    )


def _is_installed(name: str, path: Path) -> bool:
    """Whether `import name` means another module than this file: one of ours, or a library loaded
    later on.
    """
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return found is not None and (
        found.origin is None or Path(found.origin).resolve() != path.resolve()
    )


class _Fresh(importlib.machinery.SourceFileLoader):
    """Runs the text as it is now.

    Python's own cache takes an edit within a second that keeps the length for no edit.
    """

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _where(error: BaseException, target: str) -> str:
    """One line: what went wrong in the user's file, and where."""
    if isinstance(error, SyntaxError):
        return (
            f"{error.filename or target}, line {error.lineno}: {type(error).__name__}: {error.msg}"
        )
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if not is_own(f.filename) and not is_library(f.filename)
    ]
    at = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else target
    return f"{target} cannot be imported: {at}: {describe(error)}{_way_out(error)}"


def _way_out(error: BaseException) -> str:
    if not isinstance(error, ImportError):
        return ""
    own = own_of(error)
    if own:
        return f" ({own} is a package of Tidemill's own, whose names come first: rename yours)"
    if "no known parent package" in str(error):
        return " (put an empty __init__.py beside it, and it is part of a package)"
    return ""
