"""The debugger of `tidemill quarantine replay`: it stops where the user's code failed, and shows
none of Tidemill's frames.
"""

from __future__ import annotations

import pdb
import traceback
from types import FrameType, TracebackType

from pipeline.tracebacks import is_library, is_own


class Debugger(pdb.Pdb):
    """Post-mortem at the innermost frame of the user's own; frames of libraries below it are there
    with `down`.
    """

    def get_stack(
        self, f: FrameType | None, t: TracebackType | None
    ) -> tuple[list[tuple[FrameType, int]], int]:
        """See `bdb.Bdb.get_stack`."""
        stack, _ = super().get_stack(f, t)
        kept = [
            (frame, line) for frame, line in stack if not is_own(frame.f_code.co_filename)
        ] or stack
        users = [i for i, (frame, _) in enumerate(kept) if not is_library(frame.f_code.co_filename)]
        return kept, users[-1] if users else len(kept) - 1


def stop_at(error: BaseException) -> bool:
    """Debug where the error was raised, until the person leaves; False if no frame of the user's is
    left to look at.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if all(is_own(frame.filename) for frame in frames):
        return False
    debugger = Debugger(nosigint=True)
    debugger.reset()
    debugger.interaction(None, error.__traceback__)
    return True
