"""Where FILE stands: the package that it is part of, and modules of the user's beside it that are
named like ours.

`pipeline`, `sinks` and `infra` are our names, and a project may have folders or modules of these
names too. Then each of our packages has the user's modules as well, after its own, and what it
lacks is looked up in the user's.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

OWN = ("pipeline", "sinks", "infra")

_shared: dict[str, list[Path]] = {}


def package_of(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder that holds the outermost package that the file is part of, and the names from
    there to the file.
    """
    path = path.resolve()
    folder, names = path.parent, () if path.stem == "__init__" else (path.stem,)
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        folder, names = folder.parent, (folder.name, *names)
    return folder, names or (path.stem,)


def share_names(folder: Path, *, but: Path | None = None) -> None:
    """Let imports find the user's modules in this folder that have names of ours. but: FILE itself
    is none of them.
    """
    for name in OWN:
        found, inner = _modules_named(name, folder, but), folder / name
        if not found and not inner.is_dir():
            continue
        own = importlib.import_module(name)
        if own.__file__ is None or Path(own.__file__).resolve().parent == inner.resolve():
            continue
        if inner.is_dir() and str(inner) not in own.__path__:
            own.__path__ = [*own.__path__, str(inner)]
        _share_modules(name, own, found)


def _modules_named(name: str, folder: Path, but: Path | None) -> list[Path]:
    return [
        p
        for p in (folder / name / "__init__.py", folder / f"{name}.py")
        if p.is_file() and p != but
    ]


def _share_modules(name: str, own: ModuleType, found: list[Path]) -> None:
    known = _shared.setdefault(name, [])
    if found and found[0] not in known:
        known.append(found[0])
        if len(known) == 1:
            _look_further(own, known)


def _look_further(own: ModuleType, places: list[Path]) -> None:
    """What our package does not have is asked of the user's, which runs when that is
    first needed.
    """
    before = getattr(own, "__getattr__", None)
    loaded: dict[Path, ModuleType] = {}

    def look(name: str) -> object:
        if before is not None:
            try:
                return before(name)
            except AttributeError:
                pass
        if not name.startswith("__"):
            for place in reversed(places):
                if place not in loaded:
                    loaded[place] = _of_name(own.__name__, place)
                if name in vars(loaded[place]):
                    return vars(loaded[place])[name]
        raise AttributeError(f"module {own.__name__!r} has no attribute {name!r}")

    own.__getattr__ = look  # type: ignore[method-assign]


def _of_name(name: str, place: Path) -> ModuleType:
    """The user's module as one of that name, beside ours in `sys.modules`."""
    inner = [str(place.parent)] if place.name == "__init__.py" else None
    return execute(
        importlib.util.spec_from_file_location(name, place, submodule_search_locations=inner)
    )


def execute(spec: ModuleSpec | None, *, known: bool = False) -> ModuleType:
    """Run the user's module. known: under its name in `sys.modules`, unless it fails."""
    if spec is None or spec.loader is None:
        raise ImportError("that is no Python file")
    module = importlib.util.module_from_spec(spec)
    if known:
        sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if known:
            del sys.modules[spec.name]
        raise
    return module


def is_ours(name: str) -> bool:
    """Whether we have a module or package of this name, below a package of ours."""
    place = Path(importlib.import_module("pipeline").__path__[0]).parent.joinpath(
        *name.split(".")[:2]
    )
    return place.is_dir() or place.with_suffix(".py").is_file()


def is_taken(name: str, folder: Path) -> bool:
    """Whether `import name` means something else than the package in this folder."""
    known = sys.modules.get(name)
    if known is not None:
        return str(folder) not in [
            str(Path(place).resolve()) for place in getattr(known, "__path__", ())
        ]
    if name in sys.stdlib_module_names:
        return True
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return True
    return found is None or str(folder) not in [
        str(Path(place).resolve()) for place in found.submodule_search_locations or ()
    ]


def own_of(error: ImportError) -> str:
    """Which of our packages an import failed in, where the user has one of that name too; else
    nothing.
    """
    top = (error.name or "").partition(".")[0]
    shared = top in _shared or any(
        str(p) for p in getattr(sys.modules.get(top), "__path__", [])[1:]
    )
    return top if top in OWN and shared else ""
