"""One offline Modal for each module of tests: containers and deploys cost seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.modal.helpers import Cloud

LACKING = {"the offline stand-in has no WorkspaceBillingRates"}
"""Said by `plan --engine modal`, which then reckons with list prices."""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(tmp_path_factory.mktemp("cloud")) as opened:
        yield opened
        assert set(opened.modal.problems()) <= LACKING
