"""Files handed over by name, and files processed again, on a local bucket through the
command line.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.runtime import jobs as submission
from tests.support.helpers import LOGS, Project, lines

TWO_TRANSFORMS = (
    LOGS.replace("@logs.transform\n", '@logs.transform(match="**/*.jsonl")\n')
    + """
@logs.transform(match="**/*.txt")
def words(obj: Object):
    return [{"kind": "text", "v": len(obj.text().split())}]
"""
)


class Jobs(Project):
    """A project whose files are submitted."""

    def rows(self, name: str, v: int) -> Path:
        return self.upload(name, lines({"kind": name.partition(".")[0], "v": v}))

    def submit(self, *arguments: str) -> str:
        return self.call("submit", *arguments).stdout.strip()

    def wait(self, job: str, code: int = 0) -> dict[str, dict[str, Any]]:
        """What became of the job's files once all have ended, by key."""
        done = self.call("jobs wait", job, "--timeout", "120", "--json", code=code)
        assert "not ended" not in done.stderr
        return {one["key"]: one for one in json.loads(done.stdout)[0]["files"]}

    def show(self, job: str, code: int = 0) -> dict[str, str]:
        found = json.loads(self.call("jobs show", job, "--json", code=code).stdout)[0]["files"]
        return {one["key"]: one["status"] for one in found}

    def listed(self) -> list[dict[str, Any]]:
        return json.loads(self.call("jobs list", "--json").stdout)  # type: ignore[no-any-return]

    def totals(self) -> dict[str, float]:
        return {
            row["kind"]: row["total"]
            for row in self.sql("SELECT kind, sum(v)::INT AS total FROM logs GROUP BY kind")
        }

    def backfill(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        return json.loads(
            self.call("backfill", "--json", *arguments, code=code).stdout.splitlines()[0]
        )  # type: ignore[no-any-return]

    def count_runs(self) -> None:
        """From now on the code also adds 100: its rows tell that it has run again."""
        self.write(
            self.file.read_text().replace(
                "json.loads(line)", '{**(r := json.loads(line)), "v": r["v"] + 100}'
            )
        )

    def ended(self, job: str) -> None:
        """Wait for the process in the background that works at a job."""
        working = [p for p in psutil.process_iter() if _is_alive(p) and job in p.cmdline()]
        _, left = psutil.wait_procs(working, timeout=60)
        assert not left


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and bool(process.cmdline())
    except psutil.Error:
        return False


@pytest.fixture
def project(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


# -- jobs ------------------------------------------------------------------------------------------


def test_submitted_files_are_processed_and_no_others(project: Jobs) -> None:
    for i, name in enumerate("abc"):
        project.rows(f"{name}.jsonl", i)
    project.upload("bad.jsonl", "no json\n")
    job = project.submit("up/a.jsonl", "up/b.jsonl", "up/a.jsonl", "up/bad.jsonl", "up/none.jsonl")
    found = project.wait(job, code=1)
    assert {key: one["status"] for key, one in found.items()} == {
        "up/a.jsonl": "done",
        "up/b.jsonl": "done",
        "up/bad.jsonl": "failed",
        "up/none.jsonl": "missing",
    }
    assert found["up/a.jsonl"]["rows"] == 1
    assert "JSONDecodeError" in found["up/bad.jsonl"]["reason"]
    project.ended(job)
    assert project.totals() == {"a": 0, "b": 1}, "c was not submitted"
    [listed] = project.listed()
    assert (listed["job"], listed["files"], listed["ended"], listed["failed"]) == (job, 4, 4, 1)
    assert project.run()["planned"] == 1, "a run does the rest"
    project.audit()


def test_what_a_job_says_for_people(project: Jobs) -> None:
    assert project.call("jobs list").stdout == "no jobs\n"
    project.rows("a.jsonl", 1)
    job = project.submit("up/a.jsonl")
    shown = project.call("jobs wait", job).stdout
    assert shown.startswith(f"{job}: 1 file: 1 done; 1 row\n")
    assert project.call("jobs show", job).stdout == shown
    assert job in project.call("jobs list").stdout
    project.ended(job)
    assert project.call("jobs cancel", job).stdout == f"{job}: nothing was under way\n"
    assert project.show(job) == {"up/a.jsonl": "done"}


def test_files_that_are_done_are_run_once_more_only_if_asked(project: Jobs) -> None:
    project.rows("a.jsonl", 1)
    project.rows("b.jsonl", 2)
    project.run()
    project.count_runs()
    first = project.submit("up/a.jsonl")
    assert project.wait(first)["up/a.jsonl"]["status"] == "done"
    project.ended(first)
    assert project.totals() == {"a": 1, "b": 2}
    again = project.submit("up/a.jsonl", "--again")
    assert project.wait(again)["up/a.jsonl"]["status"] == "done"
    assert project.totals() == {
        "a": 101,
        "b": 2,
    }, "it is done when the new rows are there, not before"
    project.ended(again)
    project.audit()


def test_a_job_outlives_later_changes_of_its_files(project: Jobs) -> None:
    path = project.rows("a.jsonl", 1)
    project.rows("b.jsonl", 2)
    job = project.submit("up/a.jsonl", "up/b.jsonl")
    project.wait(job)
    project.ended(job)
    project.rows("a.jsonl", 5)
    (project.root / "up" / "b.jsonl").unlink()
    assert project.show(job) == {
        "up/a.jsonl": "done",
        "up/b.jsonl": "done",
    }, "the state does not know yet"
    project.run()
    assert project.show(job, code=1) == {"up/a.jsonl": "superseded", "up/b.jsonl": "missing"}
    path.unlink()
    project.run()
    assert project.show(job, code=1) == {"up/a.jsonl": "missing", "up/b.jsonl": "missing"}


def test_several_jobs_with_one_key_at_once_commit_it_once(project: Jobs) -> None:
    for name in "ab":
        project.rows(f"{name}.jsonl", 1)
    command = project.command("submit", str(project.file), "up/a.jsonl", "up/b.jsonl", "--again")
    submitting = [
        subprocess.Popen(
            command, env=project.env(), cwd=project.folder, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    jobs = [process.communicate(timeout=120)[0].strip() for process in submitting]
    assert len(set(jobs)) == 3
    for job in jobs:
        assert {one["status"] for one in project.wait(job).values()} == {"done"}
        project.ended(job)
    assert project.totals() == {"a": 1, "b": 1}
    assert [one["ended"] for one in project.listed()] == [2, 2, 2]
    project.audit()


class Gate:
    """Lets a transform say that it runs, and holds it until it is let go."""

    def __init__(self, folder: Path) -> None:
        self.started, self.go, self.gone = folder / "started", folder / "go", folder / "gone"
        for path in (self.started, self.go):
            os.mkfifo(path)
        self._ends = [os.open(path, os.O_RDWR) for path in (self.started, self.go)]

    @property
    def source(self) -> str:
        held = f"""
    if "held" in obj.key and not os.path.exists({str(self.gone)!r}):
        open({str(self.started)!r}, "w").write("x")
        open({str(self.go)!r}).read(1)
"""
        return LOGS.replace("    return [json", f"{held}    return [json").replace(
            "import json", "import json, os"
        )

    def wait_until_it_runs(self) -> None:
        assert select.select(self._ends[:1], [], [], 120)[0], "the transform was not called"
        os.read(self._ends[0], 1)

    def let_go(self) -> None:
        self.gone.touch()
        os.write(self._ends[1], b"x")

    def close(self) -> None:
        self.let_go()
        for end in self._ends:
            os.close(end)


@pytest.fixture
def gate(tmp_path: Path) -> Any:
    made = Gate(tmp_path)
    yield made
    made.close()


def test_a_job_is_cancelled_while_it_runs_and_what_it_does_later_does_not_count(
    project: Jobs, gate: Gate
) -> None:
    project.write(gate.source)
    project.rows("held.jsonl", 1)
    project.rows("other.jsonl", 2)
    job = project.submit("up/held.jsonl")
    gate.wait_until_it_runs()
    assert project.show(job) == {"up/held.jsonl": "running"}
    assert project.call("jobs wait", job, "--timeout", "0", code=1).stderr.endswith(
        "1 file not ended after 0 s\n"
    )
    assert json.loads(project.call("jobs cancel", job, "--json").stdout) == [
        {"job": job, "cancelled_tasks": 1}
    ]
    assert project.show(job) == {"up/held.jsonl": "cancelled"}
    gate.let_go()
    project.ended(job)
    assert project.show(job) == {"up/held.jsonl": "cancelled"}
    assert project.run()["committed"] == 1, "a run leaves it set aside"
    assert project.totals() == {"other": 2}
    project.call("quarantine retry", "up/held.jsonl", code=None)
    assert project.run()["quarantined"] == 0
    assert project.totals() == {"other": 2, "held": 1}
    project.audit()


def test_committed_rows_count_while_a_job_makes_them_anew_and_stay_if_it_is_cancelled(
    project: Jobs, gate: Gate
) -> None:
    project.rows("held.jsonl", 1)
    project.run()
    project.write(gate.source)
    job = project.submit("up/held.jsonl", "--again")
    gate.wait_until_it_runs()
    assert project.audit()["sources"] == {"committed, and in progress once more": 1}
    project.call("jobs cancel", job)
    gate.let_go()
    project.ended(job)
    assert project.show(job) == {"up/held.jsonl": "cancelled"}
    assert project.totals() == {"held": 1}
    assert project.audit()["sources"] == {"committed, and quarantined once more": 1}


def test_a_file_that_changes_while_its_job_runs_is_superseded(project: Jobs, gate: Gate) -> None:
    project.write(gate.source)
    project.rows("held.jsonl", 1)
    job = project.submit("up/held.jsonl")
    gate.wait_until_it_runs()
    project.rows("held.jsonl", 20)
    gate.let_go()
    assert project.wait(job)["up/held.jsonl"]["status"] == "superseded", "and nobody waits for ever"
    project.ended(job)
    assert project.run()["committed"] == 1
    assert project.totals() == {"held": 20}


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        (["elsewhere/a.jsonl"], "is below no source"),
        (["up/a.jsonl", "elsewhere/a.jsonl"], "is not below 'up/'"),
        (["/up/a.jsonl"], "is below no source"),
        (["up/a.other"], "is taken by no transform"),
        (["up/\udcff.jsonl"], "is not valid UTF-8"),
        ([], "Missing argument 'KEY...'"),
        (["up/a.jsonl", "--engine", "modal"], "cannot be reached from Modal"),
        (["up/a.jsonl", "--engine", "moon"], "Invalid value for '--engine'"),
    ],
)
def test_a_submission_that_cannot_work_is_refused_in_one_line_and_leaves_nothing(
    project: Jobs, arguments: list[str], reported: str
) -> None:
    project.write(TWO_TRANSFORMS)
    project.rows("a.jsonl", 1)
    refused = project.call("submit", *arguments, code=2)
    assert reported in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert project.call("jobs list").stdout == "no jobs\n"


@pytest.mark.parametrize(
    ("command", "job"),
    [
        ("jobs show", "job-x"),
        ("jobs wait", "../format"),
        ("jobs cancel", "a/../b"),
        ("jobs show", "x" * 300),
        ("jobs cancel", " "),
    ],
)
def test_a_job_that_there_is_not_is_said_to_be_none(project: Jobs, command: str, job: str) -> None:
    refused = project.call(command, job, code=2)
    assert f"there is no job '{job}"[:60] in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        (["job-x"], "there is no job 'job-x'"),
        (["job-x", "--watch"], "neither --watch nor --limit"),
        (["x", "--limit", "1"], "neither"),
    ],
)
def test_a_run_of_a_job_that_makes_no_sense_is_refused(
    project: Jobs, arguments: list[str], reported: str
) -> None:
    refused = project.call("run", "--job", *arguments, code=2)
    assert reported in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_job_whose_keys_no_file_can_have_ends_as_missing(project: Jobs) -> None:
    job = project.submit("up/a//b", "up/../x", f"up/{'x' * 300}", "up/folder/")
    assert {one["status"] for one in project.wait(job, code=1).values()} == {"missing"}
    project.ended(job)


def test_a_name_that_is_nearly_right_is_suggested(project: Jobs) -> None:
    project.rows("a.jsonl", 1)
    job = project.submit("up/a.jsonl")
    assert f"did you mean '{job}'" in project.call("jobs show", job[:-1], code=2).stderr
    project.ended(job)


# -- backfills -------------------------------------------------------------------------------------


@pytest.fixture
def grown(project: Jobs) -> Jobs:
    """Three days of files, processed; then the code changes."""
    project.write(TWO_TRANSFORMS)
    for day, path in (
        ("2026-06-12", project.rows("new.jsonl", 1)),
        ("2026-06-10", project.rows("old.jsonl", 2)),
        ("2026-06-11", project.rows("day=1/deep.jsonl", 3)),
        ("2026-06-12", project.upload("note.txt", "one two")),
    ):
        at_s = datetime.fromisoformat(f"{day}T00:00+00:00").timestamp()
        os.utime(path, (at_s, at_s))
    project.run()
    project.count_runs()
    return project


BEFORE = {"new": 1, "old": 2, "day=1/deep": 3, "text": 2}


def test_without_bounds_all_are_processed_again_and_nothing_twice(grown: Jobs) -> None:
    assert grown.totals() == BEFORE
    assert grown.run()["planned"] == 0, "other code alone is no reason"
    report = grown.backfill()
    assert (report["planned"], report["committed"]) == (4, 4)
    assert grown.totals() == {"new": 101, "old": 102, "day=1/deep": 103, "text": 2}
    assert grown.audit()["sources"] == {"committed": 4}


@pytest.mark.parametrize(
    ("arguments", "again"),
    [
        (["--prefix", "day=1/"], ["day=1/deep"]),
        (["--prefix", "n"], ["new", "text"]),
        (["--prefix", "none"], []),
        (["--since", "2026-06-11", "--until", "2026-06-12"], ["day=1/deep"]),
        (["--until", "2026-06-11T00:00Z"], ["old"]),
        (["--since", "2026-06-11T02:00:01+02:00"], ["new", "text"]),
        (["--since", "1h"], []),
        (["--transform", "words"], ["text"]),
        (["--transform", "parse", "--prefix", "n"], ["new"]),
        (["--outdated"], ["day=1/deep", "new", "old"]),
        (["--resume", "1"], []),
    ],
    ids=" ".join,
)
def test_a_backfill_takes_what_it_names(
    grown: Jobs, arguments: list[str], again: list[str]
) -> None:
    assert grown.backfill(*arguments)["committed"] == len(again)
    changed = {kind for kind, total in grown.totals().items() if total != BEFORE[kind]}
    assert changed == set(again) - {"text"}


def test_a_backfill_also_takes_new_files_and_leaves_rows_that_the_new_code_cannot_make(
    grown: Jobs,
) -> None:
    grown.rows("fresh.jsonl", 7)
    grown.write(
        grown.file.read_text().replace(
            "    return [{**", '    assert "old" not in obj.key\n    return [{**'
        )
    )
    report = grown.backfill(code=1)
    assert (report["committed"], report["quarantined"]) == (4, 1)
    assert grown.totals() == {"new": 101, "old": 2, "day=1/deep": 103, "text": 2, "fresh": 107}
    assert grown.audit()["sources"] == {"committed": 4, "committed, and quarantined once more": 1}


def test_a_backfill_that_was_broken_off_goes_on_where_it_was(grown: Jobs) -> None:
    first = grown.call("backfill", "--limit", "2")
    began = first.stderr.split("--resume ")[1].split(")")[0]
    assert sum(total > 100 for total in grown.totals().values()) >= 1
    rest = grown.backfill("--resume", began)
    assert rest["committed"] == 2, "and not those that are done"
    assert grown.totals() == {"new": 101, "old": 102, "day=1/deep": 103, "text": 2}
    assert grown.backfill("--resume", began)["committed"] == 0
    said = grown.call("backfill", "--resume", "9999", code=2).stderr
    assert "--resume 9999: logs has no such commit yet, the newest is " in said
    assert grown.audit()["sources"] == {"committed": 4}


def test_outdated_files_are_done_once(grown: Jobs) -> None:
    assert grown.backfill("--outdated")["committed"] == 3
    assert grown.backfill("--outdated")["committed"] == 0


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        (["--since", "blah"], "'blah' is no time"),
        (["--since", "999999999d"], "is no time"),
        (["--until", "2026-02-30"], "is no time"),
        (["--since", "5h", "--until", "10h"], "nothing lies between"),
        (["--transform", "pars"], "did you mean 'parse'?"),
        (["--resume", "0"], "Invalid value for '--resume'"),
        (["--resume", "x"], "Invalid value for '--resume'"),
        (["--limit", "0"], "Invalid value for '--limit'"),
        (["--wait"], "--wait and --ordered are for --engine modal"),
        (["--engine", "modal"], "cannot be reached from Modal"),
        (["--engine", "modal", "--workers", "2"], "--workers is for --engine local"),
        (["--engine", "modal", "--ordered"], "--ordered needs --wait"),
    ],
    ids=" ".join,
)
def test_a_backfill_that_makes_no_sense_is_refused_in_one_line(
    project: Jobs, arguments: list[str], reported: str
) -> None:
    refused = project.call("backfill", *arguments, code=2)
    assert reported in refused.stderr
    assert refused.stderr.count("\n") == 1


def recorded(project: Jobs, *names: str) -> str:
    """A job that was written down by a process that died before it planned anything."""
    from pipeline.declare.load_file import load_pipelines
    from pipeline.executors.none import NoExecutor
    from pipeline.model.policy import Policy
    from pipeline.runtime.bucket import Bucket
    from pipeline.runtime.runtime import Runtime

    async def write() -> str:
        [pipeline] = load_pipelines(str(project.file))
        runtime = Runtime(
            pipeline, pipeline.settings(), Bucket(url=project.bucket).open(), Policy(), NoExecutor()
        )
        await runtime.open()
        return (await submission.record(runtime, submission.new_job(), list(names), again=False)).id

    return asyncio.run(write())


def test_a_job_that_nobody_planned_can_be_taken_up_or_cancelled(project: Jobs) -> None:
    project.rows("a.jsonl", 1)
    left, unwanted = recorded(project, "up/a.jsonl"), recorded(project, "up/a.jsonl")
    assert f"tidemill run {project.file} --job {left}" in project.call("jobs show", left).stdout
    assert "cancelled before it began" in project.call("jobs cancel", unwanted).stdout
    assert project.run("--job", unwanted)["committed"] == 0
    assert project.show(unwanted) == {"up/a.jsonl": "cancelled"}
    assert project.run("--job", left)["committed"] == 1
    assert project.show(left) == {"up/a.jsonl": "done"}


def test_again_means_files_in_quarantine_too(project: Jobs) -> None:
    project.upload("bad.jsonl", "not json\n")
    project.run(code=1)
    project.write(LOGS.replace("json.loads(line)", '{"kind": "fixed", "v": 1}'))
    assert (
        project.wait(project.submit("up/bad.jsonl"), code=1)["up/bad.jsonl"]["status"] == "failed"
    )
    assert (
        project.wait(project.submit("up/bad.jsonl", "--again"))["up/bad.jsonl"]["status"] == "done"
    )
    assert project.totals() == {"fixed": 1}
    project.audit()


def test_a_damaged_record_hides_no_other_job(project: Jobs) -> None:
    project.rows("a.jsonl", 1)
    job = project.submit("up/a.jsonl")
    project.wait(job)
    (project.root / "_tidemill" / "logs" / "jobs" / "job-damaged.json").write_text(
        '{"format": 1, "id"'
    )
    assert [one["job"] for one in project.listed()] == [job]
    assert "damaged or truncated" in project.call("jobs show", "job-damaged", code=2).stderr
