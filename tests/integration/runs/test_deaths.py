"""Workers and runners that die, by real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.helpers import Project

DEADLY = """
import ctypes, os, signal, sys, time
from pipeline import Pipeline, Object

logs = Pipeline("logs", source="up/")

@logs.transform(timeout_s={timeout}, memory_mb={memory}, max_attempts=2)
def parse(obj: Object):
    text = obj.text()
    if text == "exit":
        os._exit(3)
    if text == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "segfault":
        ctypes.string_at(0)
    if text == "sleep":
        time.sleep(3600)
    if text == "memory":
        hog = bytearray(1 << 30)
        hog[::4096] = b"x" * len(hog[::4096])
        time.sleep(3600)
    if text == "sys.exit":
        sys.exit("leaving")
    print("printed by user code")
    return {{"name": obj.name}}
"""


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        ("exit", "exited with code 3"),
        ("kill", "killed by SIGKILL"),
        ("segfault", "killed by SIGSEGV"),
        ("sleep", "time limit: one call took longer than 0.7 s"),
        ("memory", "memory limit: the worker used more than 600 MB"),
    ],
)
def test_a_file_that_kills_its_worker_costs_only_itself(
    tmp_path: Path, deed: str, words: str
) -> None:
    timeout, memory = ("0.7" if deed == "sleep" else "600"), ("600" if deed == "memory" else "None")
    project = Project(tmp_path, DEADLY.format(timeout=timeout, memory=memory))
    for i in range(12):
        project.upload(f"{i:02}", "fine")
    project.upload("05-bad", deed)
    report = project.run("--workers", "2", code=1)
    assert (report["committed"], report["quarantined"]) == (12, 1)
    [entry] = json.loads(project.call("quarantine list", "--json", code=1).stdout)
    assert (entry["key"], entry["kind"]) == ("up/05-bad", "lost")
    assert words in entry["reason"]
    assert entry["retry_at_ms"] > 0, "a death is no verdict: it is tried again later"
    assert project.audit()["sources"] == {"committed": 12, "quarantined": 1}


def test_sys_exit_is_an_error_like_any_other(tmp_path: Path) -> None:
    project = Project(tmp_path, DEADLY.format(timeout="600", memory="None"))
    project.upload("bad", "sys.exit")
    project.upload("good", "x")
    assert project.run(code=1)["committed"] == 1
    [entry] = json.loads(project.call("quarantine list", "--json", code=1).stdout)
    assert (entry["kind"], entry["reason"]) == ("failed", "SystemExit: leaving")


def test_a_module_that_breaks_only_in_workers_is_one_clear_line(tmp_path: Path) -> None:
    project = Project(
        tmp_path,
        """
        from pipeline import Pipeline
        logs = Pipeline("logs", source="up/")

        @logs.transform
        class Model:
            def load(self):
                raise OSError("no weights here")
            def __call__(self, obj):
                return None
        """,
    )
    project.upload("a", "x")
    done = project.call("run", code=2)
    where = f"{project.file}, line 8"
    assert (
        done.stderr.strip()
        == f"tidemill: transform model of logs cannot be loaded: {where}: OSError: no weights here"
    )
    project.write(project.file.read_text().replace('raise OSError("no weights here")', "pass"))
    assert project.run()["committed"] == 1, "nothing is lost, and nothing is blamed on the file"


def test_only_the_code_that_is_needed_is_loaded(tmp_path: Path) -> None:
    project = Project(
        tmp_path,
        """
        from pipeline import Pipeline
        logs = Pipeline("logs", source="up/")

        @logs.transform(match="*.text")
        def text(obj):
            return {"name": obj.name}

        @logs.transform(match="*.picture")
        class Model:
            def load(self):
                raise OSError("no GPU here")
            def __call__(self, obj):
                return None
        """,
    )
    project.upload("a.text", "x")
    assert project.run()["committed"] == 1


SLOW = """
import time
from pathlib import Path
from pipeline import Pipeline, Object

logs = Pipeline("logs", source="up/")

@logs.transform
def parse(obj: Object):
    Path({started!r}).joinpath(obj.name).touch()
    while Path({gate!r}).exists():
        time.sleep(0.01)
    return {{"name": obj.name}}
"""


@pytest.fixture
def slow(tmp_path: Path) -> Project:
    (tmp_path / "started").mkdir()
    (tmp_path / "gate").touch()
    project = Project(
        tmp_path, SLOW.format(started=str(tmp_path / "started"), gate=str(tmp_path / "gate"))
    )
    for i in range(6):
        project.upload(str(i), "x")
    return project


def begin(project: Project, *arguments: str) -> subprocess.Popen[str]:
    command = project.command("run", str(project.file), "--workers", "2", *arguments)
    process = subprocess.Popen(
        command, env=project.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until(lambda: any((project.folder / "started").iterdir()) or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    return process


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_interrupt_stops_cleanly_and_the_next_run_goes_on(slow: Project, number: int) -> None:
    process = begin(slow)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.strip() == "tidemill: stopped; the next run goes on from here"
    psutil.wait_procs(workers, timeout=10)
    assert not any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers)
    (slow.folder / "gate").unlink()
    assert slow.run()["committed"] == 6
    slow.audit()


def test_a_killed_runner_takes_its_workers_along_and_its_tasks_are_adopted_at_once(
    slow: Project,
) -> None:
    process = begin(slow)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    psutil.wait_procs(workers, timeout=10)
    assert not any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers), (
        "nobody works for a dead runner"
    )
    (slow.folder / "gate").unlink()
    assert slow.run()["committed"] == 6, "without waiting for any deadline"
    assert slow.audit()["sources"] == {"committed": 6}


def test_a_run_that_is_killed_while_it_aggregates_leaves_no_temporary_files(slow: Project) -> None:
    (slow.folder / "gate").unlink()
    (temporary := slow.folder / "tmp").mkdir()
    slow.environment["TMPDIR"] = str(temporary)
    slow.write(
        slow.file.read_text()
        + 'logs.aggregate("long", by=["name"], sql="SELECT name, count(*) AS n FROM logs,'
        ' range(1000000000) GROUP BY name")'
    )
    process = begin(slow)
    until(lambda: any(temporary.rglob("tidemill-sql-*")))
    process.kill()
    process.communicate()
    until(lambda: not any(temporary.iterdir()))


def test_tasks_of_a_transform_that_was_renamed_are_routed_anew(slow: Project) -> None:
    process = begin(slow)
    process.kill()
    process.communicate()
    slow.write(slow.file.read_text().replace("def parse", "def renamed"))
    (slow.folder / "gate").unlink()
    assert slow.run()["committed"] == 6
    assert slow.sql("SELECT DISTINCT transform FROM sources") == [{"transform": "renamed"}]
    slow.audit()


def test_two_runs_at_once_commit_each_file_once(slow: Project) -> None:
    first = begin(slow)
    second = subprocess.Popen(
        slow.command("run", str(slow.file), "--json"),
        env=slow.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, errors = second.communicate(timeout=60)
    assert (second.returncode, json.loads(out)["elsewhere"]) == (0, 6), errors
    (slow.folder / "gate").unlink()
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert slow.sql("SELECT count(*) AS n, count(DISTINCT name) AS d FROM logs") == [
        {"n": 6, "d": 6}
    ]
    slow.audit()


def test_watch_takes_new_files_and_ends_on_one_interrupt(slow: Project) -> None:
    (slow.folder / "gate").unlink()
    process = begin(slow, "--watch", "--interval", "0.1")
    slow.upload("late", "x")
    until((slow.folder / "started" / "late").exists)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0
    slow.run()
    assert slow.sql("SELECT count(*) AS n FROM logs") == [{"n": 7}]


MANY = """
from pipeline import Pipeline, Object

logs = Pipeline("logs", source="up/")

@logs.transform
def parse(obj: Object):
    total = sum(i * i for i in range(20_000))
    return [{"name": obj.name, "v": int(line)} for line in obj.lines()]

logs.aggregate("totals", by=["name"], sql="SELECT name, sum(v) AS v FROM logs GROUP BY name")
"""


def test_kill_nine_at_twenty_moments_then_one_undisturbed_run(tmp_path: Path) -> None:
    """Each run is killed a little later than the one before; new files keep coming."""
    (tmp_path / "tmp").mkdir()
    # a kill in the first moments leaves an empty folder
    project = Project(tmp_path, MANY, TMPDIR=str(tmp_path / "tmp"))
    expected = 0
    for round_ in range(20):
        for i in range(25):
            project.upload(f"{round_}-{i}", f"{i}\n{round_}\n")
            expected += i + round_
        process = subprocess.Popen(
            project.command("run", str(project.file), "--workers", "2"),
            env=project.env(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(timeout=0.3 + round_ * 0.1)
        except subprocess.TimeoutExpired:
            if round_ % 2:
                os.killpg(process.pid, signal.SIGKILL)  # the workers too
            else:
                process.kill()
        process.wait()
    project.run()
    report = project.audit()
    assert (report["sources"], report["rows"]) == ({"committed": 500}, 1000)
    assert project.sql("SELECT sum(v) AS v FROM logs") == [{"v": expected}]
    assert project.sql("SELECT sum(v) AS v FROM totals") == [{"v": expected}]
