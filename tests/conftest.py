"""Settings of all tests."""

import signal

import pytest
from hypothesis import settings

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would all they start

settings.register_profile("tidemill", deadline=None, derandomize=True)  # no timing asserts; the same examples each time
settings.load_profile("tidemill")

SLOW = ("tests/modal/", "tests/modal_offline/", "tests/simulation/", "tests/integration/test_de")
PARTS = 3


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first in the stretch that each worker gets to begin with, so that all workers end together."""
    slow = [item for item in items if item.nodeid.startswith(SLOW)]
    quick = [item for item in items if not item.nodeid.startswith(SLOW)]
    items[:] = [item for part in range(PARTS) for item in (*slow[part::PARTS], *quick[part::PARTS])]
