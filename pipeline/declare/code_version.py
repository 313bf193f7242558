"""A short name for the code of a transform: other code, or other settings that shape its rows, give
another name.

The code is the function's or class's own text, and what it uses of the project: functions, classes
and plain constants of its file, of files beside it, and so on from there. Installed packages do not
count but by what the pipeline asks for (`pip=`, `apt=`).
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

_PLAIN = (str, bytes, int, float, bool, type(None))


def fingerprint(target: Callable[..., object], settings: Sequence[str] = ()) -> str:
    """Twelve hexadecimal digits. settings: what else shapes the rows, as texts."""
    used = _Used(target)
    texts = [
        _source(target),
        *(f"{name}={text}" for name, text in sorted(used.texts.items())),
        *settings,
    ]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


class _Used:
    """What a transform's code uses of its project: name -> text."""

    def __init__(self, target: Callable[..., object]) -> None:
        self.texts: dict[str, str] = {}
        self._folder = _project(target)
        self._target = target
        self._seen: set[int] = {id(target)}
        self._walk(target)

    def _walk(self, value: object) -> None:
        for function in _functions(value):
            for name in sorted(set(_names(function.__code__))):
                if name in function.__globals__:
                    self._note(
                        f"{Path(function.__code__.co_filename).name}:{name}",
                        function.__globals__[name],
                    )

    def _note(self, name: str, value: object) -> None:
        if id(value) in self._seen:
            return
        if isinstance(value, ModuleType | FunctionType | type):
            self._seen.add(id(value))
            if not self._is_own(value):
                return
            self.texts[name] = _source(value)
            if not isinstance(value, ModuleType):
                self._walk(value)
            return
        text = _constant(value)
        if text is not None:
            self.texts[name] = text

    def _is_own(self, value: object) -> bool:
        """Whether it stands in the project: in the folder of the transform's file, or below it."""
        folder = _folder(value)
        return (
            folder is not None and self._folder is not None and folder.is_relative_to(self._folder)
        )


def _functions(value: object) -> Iterator[FunctionType]:
    """The function itself, or the methods of a class and of its bases in the project."""
    if isinstance(value, FunctionType):
        yield inspect.unwrap(value)
        return
    for kind in getattr(value, "__mro__", ()):
        for member in vars(kind).values():
            found = getattr(member, "__func__", member)
            if isinstance(found, FunctionType) and kind.__module__ == getattr(
                value, "__module__", None
            ):
                yield found


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _source(value: object) -> str:
    try:
        return inspect.getsource(value)  # type: ignore[arg-type]
    except (OSError, TypeError):
        code = getattr(value, "__code__", None)
        return code.co_code.hex() if code is not None else repr(value)


def _project(target: object) -> Path | None:
    """The folder of the transform's file; where that is part of a package, the package's own."""
    folder = _folder(target)
    while (
        folder is not None
        and (folder.parent / "__init__.py").is_file()
        and (folder / "__init__.py").is_file()
    ):
        folder = folder.parent
    return folder


def _folder(value: object) -> Path | None:
    """Where the code's file is; None for what is installed, built in or typed in."""
    try:
        file = inspect.getsourcefile(value)  # type: ignore[arg-type]
    except TypeError:
        return None
    if file is None or "site-packages" in file or "dist-packages" in file:
        return None
    path = Path(file).resolve()
    return None if path.is_relative_to(Path(sys.base_prefix, "lib").resolve()) else path.parent


def _constant(value: object) -> str | None:
    """A constant as text that is the same in every process; None for anything that is none."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, re.Pattern):
        return f"{value.pattern!r}/{value.flags}"
    if isinstance(value, Mapping):
        parts = [(_constant(key), _constant(one)) for key, one in value.items()]
        return None if any(None in part for part in parts) else repr(parts)
    if isinstance(value, list | tuple | set | frozenset):
        return _constants(value)
    return None


def _constants(values: Collection[object]) -> str | None:
    found = [_constant(one) for one in values]
    if None in found:
        return None
    return repr(sorted(map(str, found)) if isinstance(values, set | frozenset) else found)
