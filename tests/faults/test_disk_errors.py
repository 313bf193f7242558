"""A disk that is full, over quota, broken or read only, at every single request in turn; and a real
process at its file limit.
"""

from __future__ import annotations

import errno
import itertools
import json
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline.commit_log import store_probe
from pipeline.errors import CommitUnknown, StoreDenied, StoreUnavailable
from tests.faults.disk import FaultyDisk, World
from tests.support.helpers import Project, lines

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES)
SHARES = 4
"""Half of the requests of a run are dealt out to so many tests."""


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_probe, "PAUSE_S", 0.0)


def first(folder: Path) -> World:
    (folder / "bucket").mkdir(parents=True)
    world = World(folder / "bucket")
    world.upload("a", 1, 2, 3)
    world.upload("b/c", 4)
    world.upload("b/d", 5, 6)
    world.upload("bad", 7, bad=True)
    return world


def second(world: World) -> None:
    world.upload("a", 8, 9)
    world.upload("e", 10)
    world.remove("b/c")


def try_to_run(world: World, disk: FaultyDisk) -> bool:
    """A run meets the error, or fixes its effect on the way, in the words of the store and in one
    line. Whether it came so far.
    """
    try:
        world.run(disk, vacuum=True)
    except (StoreUnavailable, StoreDenied, CommitUnknown) as error:
        assert "\n" not in str(error)
        if disk.number == errno.ENOSPC:
            assert "No space left on device: make room" in str(error), error
    return disk.at is not None and len(disk.steps) > disk.at


@pytest.mark.parametrize("share", range(SHARES))
def test_an_error_at_any_request_loses_and_doubles_nothing(tmp_path: Path, share: int) -> None:
    """Half of the requests, once or lasting by turns, each error by turns; `python -m` this module:
    all of them.
    """
    for n in itertools.count(share, 2 * SHARES):
        if not survives(
            tmp_path / str(n), FaultyDisk(n, ERRORS[n // 2 % len(ERRORS)], lasting=n % 2 == 0)
        ):
            assert n >= 100, "a run makes more requests than that"
            return


def survives(folder: Path, disk: FaultyDisk) -> bool:
    """Whether the run made so many requests at all; if so nothing is lost, doubled, half there or
    left for ever.
    """
    world = first(folder)
    if not try_to_run(world, disk):
        return False
    world.objects_are_whole()
    second(world)
    world.debris()
    world.run(vacuum=True)
    world.check()
    assert world.debris() == [], "something is left for ever"
    return True


def test_a_full_disk_while_files_change_keeps_what_was_committed(tmp_path: Path) -> None:
    world = first(tmp_path)
    world.run()
    before = world.rows(world.state())
    second(world)
    disk = FaultyDisk(0, errno.ENOSPC, lasting=True)
    with pytest.raises(
        (StoreUnavailable, CommitUnknown), match="No space left on device: make room"
    ):
        world.run(disk)
    assert world.rows(world.state()) == before, "readers see what was committed"
    world.run()
    world.check()


BIG = """
from pipeline import Pipeline, Object
logs = Pipeline("logs", source="up/")

@logs.transform
def parse(obj: Object):
    import random
    return [{"v": random.Random(i).random()} for i in range(30_000)]
"""


def test_a_process_at_its_file_size_limit_says_so_in_one_line_and_the_next_run_completes(
    tmp_path: Path,
) -> None:
    project = Project(tmp_path, BIG)
    for name in "abc":
        project.upload(name, "x")
    limited = subprocess.run(
        project.command("run", str(project.file), "--workers", "2"),
        env=project.env(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert limited.returncode == 1, limited.stderr
    assert "Traceback" not in limited.stderr
    assert "File too large: make room" in limited.stdout + limited.stderr
    quarantined = json.loads(project.call("quarantine list", "--json").stdout)
    assert quarantined == [], "a disk is no file's fault"
    assert project.run()["committed"] == 3
    assert project.audit()["sources"] == {"committed": 3}
    assert project.sql("SELECT count(*) AS n FROM logs") == [{"n": 90_000}]


def test_a_read_only_directory_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    world = first(tmp_path)
    with pytest.raises(StoreDenied, match="Read-only file system \\(check the permissions"):
        world.run(FaultyDisk(0, errno.EROFS, lasting=True))
    world.run()
    world.check()


HOLDS = """
import fcntl, sys
file = open(sys.argv[1], "wb")
fcntl.flock(file, fcntl.LOCK_SH)
print("held", flush=True)
sys.stdin.readline()
"""


def test_what_a_killed_writer_left_is_removed_by_the_next_run_and_what_a_living_one_writes_is_not(
    tmp_path: Path,
) -> None:
    project = Project(tmp_path)
    project.upload("a", lines({"kind": "x", "v": 1}))
    folder = project.root / ".tidemill" / "tmp"
    folder.mkdir(parents=True)
    (folder / "left").write_bytes(b"half")
    living = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder / "held")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert living.stdout is not None
    assert living.stdout.readline() == "held\n"
    assert sorted(World(project.root).debris()) == ["held", "left"]
    project.run()
    assert [path.name for path in folder.iterdir()] == ["held"]
    living.communicate("\n")
    project.run()
    assert list(folder.iterdir()) == []


def main() -> None:
    """Every request, once and lasting, with every error."""
    tried = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, lasting in itertools.product(ERRORS, (False, True)):
            for n in itertools.count():
                if not survives(
                    Path(folder, f"{number}-{lasting}-{n}"), FaultyDisk(n, number, lasting=lasting)
                ):
                    break
                tried += 1
                shutil.rmtree(Path(folder, f"{number}-{lasting}-{n}"))
    print(
        f"{tried:,} runs met an error of the disk: nothing lost, doubled, half there or left behind"
    )


if __name__ == "__main__":
    main()
