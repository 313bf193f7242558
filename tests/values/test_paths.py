"""Every table that was committed can be read, by every path, and all of them say the same."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.values.model import Row
from tests.values.paths import lived
from tests.values.strategies import ANY, files, grouping, groups_of


def life(given_files: list[list[Row]], sizes: list[int], widen: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lived(Path(folder, "world"), given_files, groups_of(given_files, sizes), widen)


@given(files(ANY), grouping, st.sampled_from([None, "none", "string"]))
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_path_says_what_was_committed(given_files: list[list[Row]], sizes: list[int], widen: Any) -> None:
    life(given_files, sizes, widen)
