"""A bucket's directory, its output or its home that somebody takes away, during a run or between
two.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from pipeline.errors import StoreUnavailable
from pipeline.stores.local.store import LocalStore
from tests.faults.disk import World
from tests.integration.runs.test_deaths import until
from tests.support.helpers import Project, lines


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    for name in "abc":
        made.upload(name, lines({"kind": name, "v": 1}))
    return made


@pytest.mark.parametrize("in_its_place", [False, True])
def test_while_the_directory_is_away_nothing_is_missing_and_nothing_is_written(
    tmp_path: Path, in_its_place: bool
) -> None:
    root, away = tmp_path / "bucket", tmp_path / "away"
    root.mkdir()
    store = LocalStore(root)

    async def keys() -> list[str]:
        return [key async for page in store.list("") for key in page.keys]

    asyncio.run(store.put("up/a", b"x"))
    root.rename(away)
    if in_its_place:
        root.mkdir()  # as an unmounted directory is
    for request in (
        store.get("up/a"),
        store.head("up/a"),
        store.put("up/b", b"y"),
        store.delete(["up/a"]),
        keys(),
    ):
        with pytest.raises(StoreUnavailable, match=r"bring (it|that one) back"):
            asyncio.run(request)
    assert (list(root.iterdir()) if in_its_place else root.exists()) in ([], False)
    if in_its_place:
        root.rmdir()
    away.rename(root)
    assert asyncio.run(keys()) == ["up/a"]


def test_a_watching_run_outlives_its_directory_being_away(project: Project, tmp_path: Path) -> None:
    command = project.command(
        "run", str(project.file), "--watch", "--interval", "0.1", "--workers", "1"
    )
    said = (tmp_path / "said").open("w+")
    process = subprocess.Popen(command, env=project.env(), cwd=tmp_path, stdout=said, stderr=said)
    try:
        until(lambda: "brought up to date" in (tmp_path / "said").read_text())
        project.root.rename(tmp_path / "away")
        until(
            lambda: (
                "is not there (any more)" in (tmp_path / "said").read_text()
                or process.poll() is not None
            )
        )
        assert not project.root.exists(), "no other one is made in its place"
        (tmp_path / "away").rename(project.root)
        project.upload("d", lines({"kind": "d", "v": 1}))
        until(
            lambda: (
                len(project.sql("SELECT DISTINCT kind FROM logs")) == 4
                or process.poll() is not None
            )
        )
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
        said.close()
    assert process.returncode == 0
    project.run()
    assert project.audit()["sources"] == {"committed": 4}


def test_a_deleted_home_is_no_new_beginning(project: Project) -> None:
    project.run()
    shutil.rmtree(project.root / "_tidemill")
    done = project.call("run", code=2)
    assert "the state of pipeline logs was deleted" in done.stderr
    assert "bring _tidemill/logs/ back from a backup, or, to start over, delete both" in done.stderr
    shutil.rmtree(project.root / "tables")
    assert project.run()["committed"] == 3
    project.audit()


def test_a_deleted_marker_is_no_new_beginning(project: Project) -> None:
    project.run()
    (project.root / "_tidemill" / "logs" / "format.json").unlink()
    assert "format.json is missing, but _tidemill/logs/log/" in project.call("run", code=2).stderr


def test_a_home_that_is_deleted_under_a_watching_run_ends_it(
    project: Project, tmp_path: Path
) -> None:
    command = project.command(
        "run", str(project.file), "--watch", "--interval", "0.1", "--workers", "1"
    )
    process = subprocess.Popen(
        command,
        env=project.env(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "3 files committed" in process.stdout.readline()
    (project.root / "_tidemill").rename(tmp_path / "home")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert (
        said.strip()
        .splitlines()[-1]
        .startswith("tidemill: _tidemill/logs/format.json was deleted under this run")
    )
    assert not (project.root / "_tidemill" / "logs" / "log").exists(), (
        "nothing was added to a log that is gone"
    )
    (tmp_path / "home").rename(project.root / "_tidemill")
    project.run()
    project.audit()


def test_a_deleted_output_is_named_and_a_backfill_makes_it_again(project: Project) -> None:
    project.run()
    shutil.rmtree(project.root / "tables")
    audit = project.call("audit", code=1)
    assert "is live and missing" in audit.stdout
    said = project.call("sql", "SELECT * FROM logs", code=1).stderr
    assert "tables/logs/rows/" in said, "never an answer without those rows"
    project.call("backfill")
    assert len(project.sql("SELECT * FROM logs")) == 3
    assert len(project.sql("SELECT * FROM by_kind")) == 3
    project.audit()


def test_a_listing_of_a_bucket_that_never_was_is_no_empty_bucket(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    world = World(tmp_path / "bucket")
    world.upload("a", 1)
    world.run()
    shutil.move(world.root, tmp_path / "away")
    with pytest.raises(StoreUnavailable, match="is not there"):
        asyncio.run(world.runtime().log().load())
