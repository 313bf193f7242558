"""Which files a compaction merges: what is small, what is worn, and never the large for the sake of
the small.
"""

from __future__ import annotations

import random

from pipeline.model.receipt import OutputFile
from pipeline.model.snapshot import Output
from pipeline.passes.compaction import TOGETHER_MAX, Wanted, choose

MB = 2**20
TARGET = 64 * MB


def output(size: int, live: int = 10, dead: int = 0, parts: tuple[str, ...] = ("",)) -> Output:
    files = [
        OutputFile(
            table="rows",
            key=f"{size}{p}",
            size_bytes=size,
            rows=1,
            partition={"p": p} if p else {},
            schema_id="s",
            sha256="",
        )
        for p in parts
    ]
    return Output(files=files, live=live, dead=[str(i) for i in range(dead)])


def chosen(outputs: dict[str, Output], **wanted: bool) -> list[list[str]]:
    return choose(outputs, Wanted(target_bytes=TARGET, **wanted))


def test_small_ones_go_together_until_a_file_is_full() -> None:
    outputs = {f"{i:02}": output(10 * MB) for i in range(14)}
    assert [len(group) for group in chosen(outputs)] == [7, 7]
    assert chosen({"a": output(MB)}) == [], "alone it stays"
    assert chosen({"a": output(100 * MB), "b": output(40 * MB)}) == [], "large ones stay"
    assert chosen({"a": output(20 * MB), "b": output(20 * MB)}) == [], (
        "merged files compress better than what they were merged of"
    )


def test_a_large_one_is_not_written_again_for_small_ones() -> None:
    outputs = {"a": output(15 * MB), **{f"b{i}": output(MB) for i in range(5)}}
    assert chosen(outputs) == [[f"b{i}" for i in range(5)]]
    grown = {"a": output(15 * MB), **{f"b{i}": output(MB) for i in range(16)}}
    assert chosen(grown) == [sorted(grown)]


def test_worn_ones_are_written_anew_whatever_their_size() -> None:
    outputs = {
        "a": output(500 * MB, live=3, dead=1),
        "b": output(500 * MB, live=99, dead=1),
        "c": output(500 * MB),
    }
    assert chosen(outputs) == [["a"]]
    assert chosen(outputs, purge=True) == [["a"], ["b"]]


def test_runs_by_themselves_wait_for_eight_of_about_a_size() -> None:
    outputs = {f"{i}": output(MB) for i in range(7)}
    assert chosen(outputs, few=False) == []
    assert len(chosen({**outputs, "7": output(MB)}, few=False)[0]) == 8
    assert chosen({**outputs, "7": output(20 * MB)}, few=False) == []


def test_partitions_are_filled_one_by_one() -> None:
    outputs = {f"{i:03}": output(MB, parts=tuple("abcdefgh")) for i in range(100)}
    groups = chosen(outputs)
    assert [len(group) for group in groups] == [64, 36], "each partition has its file then"
    many = chosen({f"{i:05}": output(0) for i in range(TOGETHER_MAX + 5)})
    assert [len(group) for group in many] == [TOGETHER_MAX, 5]


def test_what_is_written_follows_what_is_small() -> None:
    """Files of 0.1 to 2 MB come one after the other; each is written again a few times, not each
    time.
    """
    rng, outputs, come, written = random.Random(1), dict[str, Output](), 0, 0
    for i in range(600):
        size = rng.randrange(MB // 10, 2 * MB)
        outputs[f"{i:05}"] = output(size)
        come += size
        for group in chosen(outputs):
            merged = sum(outputs.pop(name).files[0].size_bytes for name in group)
            written += merged
            outputs[f"{i:05}m{len(outputs)}"] = output(merged)
    assert written < 12 * come
    assert len(outputs) < 60
