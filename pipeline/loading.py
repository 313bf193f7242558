"""From `FILE` on the command line to declared pipelines: `path/to/file.py`, `module`, either with `:name` for one pipeline."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import sys
import traceback
from pathlib import Path
from types import CodeType, ModuleType

from pipeline.api import Pipeline
from pipeline.errors import SettingsError, nearest
from pipeline.overlaps import check_together
from pipeline.tracebacks import describe


def load_pipelines(file: str) -> list[Pipeline]:
    """The pipelines that FILE declares, in order. Raises SettingsError, with one line, where there are none."""
    target, _, name = file.partition(":") if file[1:3] != ":\\" else (file, "", "")
    _refuse_folder(target)
    module = _import(target)
    found: list[Pipeline] = []
    for value in vars(module).values():
        if isinstance(value, Pipeline) and value not in found:
            found.append(value)
    if not found:
        raise SettingsError(f'{target} declares no Pipeline: write one at its top level, like flights = Pipeline("flights", ...)')
    check_together(found)
    for p in found:
        p.settings()
    if not name:
        return found
    chosen = [p for p in found if p.name == name or vars(module).get(name) is p]
    if not chosen:
        raise SettingsError(f"{target} declares no pipeline {name!r}{nearest(name, [p.name for p in found])}")
    return chosen


def _refuse_folder(target: str) -> None:
    """Raises SettingsError for a folder, and for nothing at all, where a file was meant."""
    if not target.strip():
        raise SettingsError("FILE is empty: give the file that declares the pipelines, like pipeline.py")
    if not set(target) <= {".", "/"} and not (is_path(target) and Path(target).is_dir()):
        return
    found = sorted(path for path in Path(target).glob("*.py") if _declares(path)) if Path(target).is_dir() else []
    named = f", like {found[0]}" if found else ", like pipeline.py"
    raise SettingsError(f"{target} is a directory: give the file in it that declares the pipelines{named}")


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
        return _import_path(Path(target))
    try:
        return importlib.import_module(target)
    except ModuleNotFoundError as error:
        if error.name is not None and target.startswith(error.name):
            if Path(target).is_file():
                raise SettingsError(f"{target} is no Python file: give one that declares the pipelines, like pipeline.py") from None
            raise SettingsError(f"{target!r} is neither a file (write {target}.py) nor a module that can be imported") from None
        raise SettingsError(_where(error, target)) from error
    except SettingsError:
        raise
    except Exception as error:
        raise SettingsError(_where(error, target)) from error


def _import_path(path: Path) -> ModuleType:
    if not path.is_file():
        raise SettingsError(f"there is no file {path}")
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) and Path(str(known.__file__)).resolve() == path.resolve():
        return known
    if known is not None or name in sys.stdlib_module_names or _is_installed(name, path):
        digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
        name = f"tidemill_user_{name}_{digest}"  # the file's name belongs to another module: keep both
        if name in sys.modules:
            return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path, loader=_Fresh(name, str(path)))
    if spec is None or spec.loader is None:
        raise SettingsError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except SettingsError:
        del sys.modules[name]
        raise
    except Exception as error:
        del sys.modules[name]
        raise SettingsError(_where(error, str(path))) from error
    return module


def _is_installed(name: str, path: Path) -> bool:
    """Whether `import name` means another module than this file: one of ours, or a library loaded later on."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return found is not None and (found.origin is None or Path(found.origin).resolve() != path.resolve())


class _Fresh(importlib.machinery.SourceFileLoader):
    """Runs the text as it is now. Python's own cache takes an edit within a second that keeps the length for no edit."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _where(error: Exception, target: str) -> str:
    """One line: what went wrong in the user's file, and where."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or target}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    at = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else target
    return f"{target} cannot be imported: {at}: {describe(error)}"
