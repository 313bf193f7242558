"""Settings of all tests."""

import atexit
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import settings

# a shell's background jobs ignore it, and so would all they start
signal.signal(signal.SIGINT, signal.default_int_handler)

# no timing asserts; the same examples each time
settings.register_profile("tidemill", deadline=None, derandomize=True)
settings.load_profile("tidemill")

SLOW = (
    "tests/modal/",
    "tests/modal_offline/",
    "tests/simulation/",
    "tests/integration/runs/test_deaths",
    "tests/integration/commands/test_demo",
)
PARTS = 3


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first in the stretch that each worker gets to begin with, so that all workers end
    together.
    """
    slow = [item for item in items if item.nodeid.startswith(SLOW)]
    quick = [item for item in items if not item.nodeid.startswith(SLOW)]
    items[:] = [item for part in range(PARTS) for item in (*slow[part::PARTS], *quick[part::PARTS])]


# -- nothing of ours stays in the temporary directory ----------------------------------------------

LEFT_S = 60.0
"""For processes that were killed with their tests to have ended, and what they cleared away to be
gone.
"""


def pytest_configure(config: pytest.Config) -> None:
    """A temporary directory for this session, for all but pytest's own folders: those are kept to
    look at after a failure.
    """
    os.environ.pop("PYTHONUNBUFFERED", None)  # what is printed waits in buffers on most machines
    if hasattr(config, "workerinput"):
        return
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix="tm-"))
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    config.stash[FOLDER] = folder
    # the first to register is the last to run
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


FOLDER = pytest.StashKey[Path]()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a whole session that left something.

    Where tests run in this process, their servers still have what they need.
    """
    folder = session.config.stash.get(FOLDER, None)
    if folder is None or not session.config.getoption("numprocesses", None):
        return
    until = time.monotonic() + LEFT_S
    while (left := sorted(p.name for p in folder.iterdir())) and time.monotonic() < until:
        time.sleep(0.1)
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\nleft in the temporary directory: {len(left)}:")
        for name in left[:20]:
            below = sorted(str(p.relative_to(folder)) for p in (folder / name).rglob("*"))
            print(f"  {name}{'/' if (folder / name).is_dir() else ''} {' '.join(below[:20])}")
