"""Keeping pyarrow light in processes that see no data of the user's."""

from __future__ import annotations

import sys


def skip_pandas() -> None:
    """Make pyarrow do without pandas in this process, unless it is loaded already.

    With its first array pyarrow imports pandas where that is installed: half a second and 60 MB, for nothing here. Do not call it
    in a process that runs transforms, or that forks the ones that do: their results may be pandas frames.
    """
    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _Absent)
    try:
        import pyarrow as pa

        pa.array([0])
    finally:
        sys.meta_path.remove(_Absent)


class _Absent:
    """An importer for which there is no pandas."""

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)
