"""A share of the soak: watching runs that are killed and stopped while files come, change and go.
`make soak` is the long one.
"""

from __future__ import annotations

import pytest

from tests.soak.__main__ import soak


@pytest.mark.parametrize(("store", "actions"), [("file", 25), ("s3", 25)])
def test_kills_and_stops_lose_and_double_nothing(store: str, actions: int) -> None:
    figures = soak(store, seed=5, seconds=None, actions=actions, pause_s=0.25, server="seaweedfs")
    assert figures["problems"] == []
    assert figures["kills"] > 0
    assert figures["stops"] > 0
    assert figures["deletes"] > 0
    assert figures["commits"] > 0
