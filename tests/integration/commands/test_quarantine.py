"""Files that failed: found by reason, tried again, replayed here, and gone from quarantine when
they change.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from pipeline.cli import invoke
from pipeline.commit_log.format_marker import Marker, open_home
from pipeline.commit_log.log import Log
from pipeline.model.commit import FORMAT_VERSION, Commit, Quarantined
from pipeline.model.policy import Policy
from pipeline.runtime.system import RandomIds, WallClock
from pipeline.stores import open_store
from tests.support.helpers import LOGS, Project, lines
from tests.support.servers import KEYS, moto_url


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def set_aside(project: Project, *entries: Quarantined) -> None:
    """Commit these as quarantined, as a run would have."""

    async def commit() -> None:
        store = open_store(project.bucket)
        marker = Marker(format=FORMAT_VERSION, pipeline="logs", source="up/", output="tables/logs/")
        await open_home(store, marker, RandomIds())
        log = Log(store, "logs", clock=WallClock(), policy=Policy())
        state = await log.load()
        head = {
            "format": FORMAT_VERSION,
            "sequence": state.sequence + 1,
            "id": RandomIds().nonce(),
            "previous": state.id,
        }
        made = {"pipeline": "logs", "generation": 0, "writer": "test", "written_ms": 0}
        assert await log.append(state, Commit(**head, **made, quarantine=list(entries)))  # type: ignore[arg-type]

    asyncio.run(commit())


def entry(key: str, reason: str = "ValueError: no", **options: Any) -> Quarantined:
    return Quarantined(
        **{
            "key": key,
            "etag": "e",
            "kind": "failed",
            "reason": reason,
            "transform": "parse",
            "version": "v",
        }
        | options
    )


class Here:
    """The command line in this process, for commands that start no workers."""

    def __init__(self, project: Project, capfd: pytest.CaptureFixture[str]) -> None:
        self.project = project
        self.capfd = capfd

    def __call__(self, words: str, *arguments: str, code: int = 0) -> tuple[str, str]:
        """What it printed: output, and errors."""
        self.capfd.readouterr()
        came = invoke(
            [*words.split(), str(self.project.file), *arguments, "--bucket", self.project.bucket]
        )
        out, err = self.capfd.readouterr()
        assert came == code, out + err
        return out, err


@pytest.fixture
def here(project: Project, capfd: pytest.CaptureFixture[str]) -> Here:
    return Here(project, capfd)


# -- list and retry --------------------------------------------------------------------------------


def rows_of(printed: str) -> list[list[str]]:
    """A table's cells: columns are three spaces apart."""
    head = [line for line in printed.splitlines() if "   " in line][1:]
    return [[cell.strip() for cell in line.split("   ") if cell.strip()] for line in head]


def test_reasons_are_grouped_counted_and_chosen_from(here: Here) -> None:
    set_aside(
        here.project,
        entry("up/\x1b[31mred", "it says \x1b]0;x\x07"),
        *(entry(f"up/{i}", f"ValueError: bad row {i} in {i}") for i in range(1_200)),
        entry("up/x", "KeyError: 'kind'"),
        entry("up/dead", "killed by SIGKILL", kind="lost", retry_at_ms=1),
        entry("up/stopped", "job 7 was cancelled", kind="cancelled"),
    )
    out, _ = here("quarantine list", code=1)
    assert rows_of(out) == [
        [
            "1,200",
            "logs.parse",
            "failed",
            "ValueError: bad row # in #",
            "when the file changes, or by retry",
            "up/0",
        ],
        [
            "1",
            "logs.parse",
            "failed",
            "it says \\x1b]0;x\\x07",
            "when the file changes, or by retry",
            "up/\\x1b[31mred",
        ],
        [
            "1",
            "logs.parse",
            "failed",
            "KeyError: 'kind'",
            "when the file changes, or by retry",
            "up/x",
        ],
        ["1", "logs.parse", "lost", "killed by SIGKILL", "with the next run", "up/dead"],
        ["1", "logs.parse", "cancelled", "job 7 was cancelled", "by retry", "up/stopped"],
    ]
    assert "1,204 files; see one:" in out
    assert "... and 1,104 more; --json prints all" in here("quarantine list", "--files", code=1)[0]
    assert "\x1b" not in here("status")[0] + here("quarantine show", "up/\x1b[31mred")[0]

    def keys_of(*options: str) -> list[str]:
        return [
            e["key"] for e in json.loads(here("quarantine list", "--json", *options, code=1)[0])
        ]

    assert keys_of("--kind", "lost") == ["up/dead"]
    assert keys_of("--reason", "row 17 in") == ["up/17"]
    assert len(keys_of("--reason", "Bad Row # in #")) == 1_200

    none = here("quarantine retry", "--reason", "no such words", code=2)[1]
    assert none.count("\n") == 1
    assert "\x1b" not in none
    assert "it says \\x1b]0;x\\x07 (1); " in none
    assert (
        "no quarantined file has 'no such words' in its reason; there is failed: ValueError: bad"
        " row # in # (1,200); " in none
    )
    assert (
        "not quarantined; did you mean 'up/stopped'?"
        in here("quarantine retry", "up/stoped", code=2)[1]
    )
    assert "name the files to retry" in here("quarantine retry", "up/x", "--all", code=2)[1]

    assert (
        "2 files released; process them:  tidemill run"
        in here("quarantine retry", "up/x", "up/3")[0]
    )
    assert "1 file released" in here("quarantine retry", "--kind", "lost")[0]
    assert (
        "1,199 files released" in here("quarantine retry", "--reason", "ValueError: bad row #")[0]
    )
    assert [e["key"] for e in json.loads(here("quarantine list", "--json", code=1)[0])] == [
        "up/\x1b[31mred",
        "up/stopped",
    ]
    assert "2 files released" in here("quarantine retry", "--all")[0]
    assert (
        here("quarantine list")[0]
        == here("quarantine retry", "--all")[0]
        == "nothing is quarantined\n"
    )
    assert "nothing is quarantined" in here("quarantine retry", "--kind", "lost", code=2)[1]


def test_what_is_in_progress_again_is_not_counted_as_quarantined(here: Here) -> None:
    """Status, list and SQL agree; nobody releases what a run has in hand."""
    here.project.upload("bad", "no json")
    here.project.run(code=1)
    here.project.upload("bad", "no json either")
    here.project.file.write_text(
        here.project.file.read_text().replace(
            "return [json", "import os; os._exit(3)\n    return [json"
        )
    )
    killed = subprocess.Popen(
        here.project.command("run", str(here.project.file)),
        env=here.project.env(),
        stderr=subprocess.DEVNULL,
    )
    log = here.project.root / "_tidemill" / "logs" / "log"
    while not any(
        '"plan":[{' in path.read_text() and "up/bad" in path.read_text()
        for path in list(log.iterdir())[2:]
    ):
        pass
    killed.kill()
    killed.wait()
    status = json.loads(here("status", "--json")[0])[0]
    if not status["sources"]["in progress"]:
        return  # it was quicker, and is in quarantine again
    assert (status["sources"]["quarantined"], status["failures"]) == (0, [])
    assert here("quarantine list")[0] == "nothing is quarantined\n1 more file in progress again\n"
    assert "is in progress again" in here("quarantine retry", "up/bad", code=2)[1]


# -- a changed source leaves by itself -------------------------------------------------------------


def local(tmp_path: Path) -> tuple[Project, Callable[[str, str | None], None]]:
    project = Project(tmp_path)

    def change(name: str, body: str | None) -> None:
        if body is None:
            (project.root / "up" / name).unlink()
        else:
            project.upload(name, body)

    return project, change


def on_s3(
    tmp_path: Path, *, versions: bool = False
) -> tuple[Project, Callable[[str, str | None], None]]:
    url = moto_url()
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    bucket = f"q-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=bucket)
    if versions:
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})

    def change(name: str, body: str | None) -> None:
        if body is None:
            client.delete_object(Bucket=bucket, Key=f"in/up/{name}")
        else:
            client.put_object(Bucket=bucket, Key=f"in/up/{name}", Body=body.encode())

    return Project(tmp_path, LOGS, bucket=f"s3://{bucket}/in", **KEYS, AWS_ENDPOINT_URL=url), change


@pytest.mark.parametrize("where", [local, on_s3])
def test_a_changed_source_leaves_quarantine_by_itself(
    tmp_path: Path,
    where: Callable[[Path], Any],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project, change = where(tmp_path)
    for name, value in project.environment.items():
        monkeypatch.setenv(name, value)
    here = Here(project, capfd)
    for name in ("fixed", "worse", "deleted", "same"):
        change(name, "no json\n")
    change("good", lines({"kind": "a", "v": 1}))

    def reported() -> dict[str, str]:
        """Key to reason, if status and list say the same."""
        listed = {
            e["key"]: e["reason"] for e in json.loads(here("quarantine list", "--json", code=1)[0])
        }
        status = json.loads(here("status", "--json")[0])[0]
        assert status["sources"]["quarantined"] == len(listed)
        assert {f["key"]: f["reason"] for f in status["failures"]} == listed
        return listed

    no_json = "JSONDecodeError: Expecting value: line 1 column 1 (char 0)"
    assert project.run(code=1)["quarantined"] == 4
    assert reported() == {f"up/{name}": no_json for name in ("fixed", "worse", "deleted", "same")}

    change("fixed", lines({"kind": "a", "v": 2}))
    change("worse", '{"kind": "a", "v": "text"}\n')
    change("deleted", None)
    report = project.run(code=1)
    assert (report["committed"], report["quarantined"], report["deleted"]) == (1, 1, 1)
    after = reported()
    assert after.keys() == {"up/worse", "up/same"}
    assert after["up/same"] == no_json
    rows = json.loads(here("sql", "SELECT key, reason FROM quarantine", "--format", "json")[0])
    assert {row["key"]: row["reason"] for row in rows} == after
    assert "column 'v' is string, but in table logs it is int64" in after["up/worse"]
    assert project.audit()["sources"] == {"committed": 2, "quarantined": 2}

    change("worse", None)
    change("same", lines({"kind": "a", "v": 3}))
    project.run()
    assert here("quarantine list")[0] == "nothing is quarantined\n"
    assert project.audit()["sources"] == {"committed": 3}


def test_a_file_whose_retry_is_due_is_in_the_plan_as_in_the_run(here: Here) -> None:
    path = here.project.upload("dead", lines({"kind": "a", "v": 1}))
    stat = path.stat()
    etag = f"{stat.st_mtime_ns:x}-{stat.st_size:x}-{stat.st_ino:x}"
    later = WallClock().now_ms() + 3_600_000
    lost = {"kind": "lost", "reason": "killed by SIGKILL", "etag": etag, "size_bytes": stat.st_size}
    set_aside(here.project, entry("up/dead", **lost, retry_at_ms=later))
    assert json.loads(here("plan", "--json")[0])[0]["routes"] == []
    assert "nothing to do" in here("plan")[0]
    set_aside(here.project, entry("up/dead", **lost, retry_at_ms=1))
    [route] = json.loads(here("plan", "--json")[0])[0]["routes"]
    assert (route["transform"], route["new"], route["bytes"]) == ("parse", 1, stat.st_size)
    assert here.project.run()["committed"] == 1


# -- replay ----------------------------------------------------------------------------------------

ROUTES = """
import json, time
from pipeline import Pipeline, Object

logs = Pipeline("logs", source="up/", partition_by=["kind"])

def rows(obj):
    return [json.loads(line) for line in obj.lines()]

@logs.transform(match="*.plain")
def plain(obj: Object):
    return rows(obj)

@logs.transform(match="*.late")
def late(obj: Object):
    obj.reject("a row", "no good")
    for row in rows(obj):
        yield row
        if row["v"] == 13:
            local_value = row["v"]
            raise ValueError("thirteen")

@logs.transform(match="*.batch", batch_size=5)
class Batch:
    def load(self):
        self.prepared = 7
        print("loaded")

    def __call__(self, objs: list[Object]):
        print("called with", len(objs))
        return [[self.divided(row) for row in rows(obj)] for obj in objs]

    def divided(self, row):
        return {**row, "v": row["v"] // (row["v"] - self.prepared)}

@logs.transform(match="*.short", batch_size=5)
def short(objs: list[Object]):
    return []

@logs.transform(match="*.slow", timeout_s=0.3, max_attempts=1)
def slow(obj: Object):
    until = time.monotonic() + 0.6
    while time.monotonic() < until:
        pass
    return rows(obj)
"""


@pytest.fixture
def routed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Here]:
    project = Project(tmp_path, ROUTES)
    yield Here(project, capfd)


BAD = {
    "contradicts.plain": lines({"kind": "a", "v": "text"}),
    "unpartitioned.plain": lines({"v": 1}),
    "nojson.plain": "nonsense",
    "raises.late": lines({"kind": "a", "v": 1}, {"kind": "a", "v": 13}),
    "zero.batch": lines({"kind": "a", "v": 7}),
    "none.short": "x",
}


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(p): (p.stat().st_mtime_ns, p.read_bytes())
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_a_replay_fails_as_the_run_did_and_changes_nothing(routed: Here) -> None:
    """Exceptions, late ones, batches, and what only the table's writer finds: each has the reason
    that is in quarantine.
    """
    project = routed.project
    project.upload("good.plain", lines({"kind": "a", "v": 1}))
    project.run()
    for name, body in BAD.items():
        project.upload(name, body)
    project.upload("slow.slow", lines({"kind": "a", "v": 1}))
    assert project.run(code=1)["quarantined"] == len(BAD) + 1
    entries = {e["key"]: e for e in json.loads(routed("quarantine list", "--json", code=1)[0])}
    before = everything(project.root)
    for name in BAD:
        out, err = routed("quarantine replay", f"up/{name}", code=1)
        assert err == f"up/{name} still fails: {entries[f'up/{name}']['reason']}\n"
        assert entries[f"up/{name}"]["detail"].partition("\n\nprinted:")[0] in out
        assert out.count("called with 1") == (name == "zero.batch"), "a batch of one is called once"

    out, err = routed("quarantine replay", "up/slow.slow")
    assert (
        err == "note: it was quarantined for a limit (time limit: one call took longer than 0.3 s"
        " (timeout_s)); a replay has none, in time or memory\n"
    )
    assert out.splitlines()[0] == "{'kind': 'a', 'v': 1}"
    assert "have a run process it:  tidemill quarantine retry" in out

    out, err = routed("quarantine replay", "up/good.plain")
    assert err.startswith(
        "note: 'up/good.plain' is not quarantined; replaying the committed version "
    )
    assert out.endswith("up/good.plain: 1 row, 0 rows rejected; nothing was committed\n")
    fine = lines(*({"kind": "b", "v": i} for i in range(9)))
    for name, words in (
        ("new.plain", "the new version"),
        ("new.late", "the new version"),
        ("new.batch", "the new version"),
    ):
        project.upload(name, fine if name != "new.batch" else lines({"kind": "b", "v": 8}))
        assert words in routed("quarantine replay", f"up/{name}")[1]
    shown = json.loads(routed("quarantine replay", "up/new.late", "--json", "--rows", "2")[0])[0]
    assert (shown["status"], shown["rows"], shown["rejected"]) == ("ok", 9, 1)
    assert shown["sample"] == [{"kind": "b", "v": 0}, {"kind": "b", "v": 1}]
    assert shown["rejected_sample"] == [["a row", "no good"]]
    out, err = routed("quarantine replay", "up/new.batch", "--json")
    assert json.loads(out)[0]["status"] == "ok"
    assert "called with 1" in err, "what the code prints does not mix with JSON"
    for key in ("up/none.at.all", "elsewhere/x"):
        assert routed("quarantine replay", key, code=2)[1].count("\n") == 1
    added = {str(project.root / "up" / name) for name in ("new.plain", "new.late", "new.batch")}
    assert {
        path: was for path, was in everything(project.root).items() if path not in added
    } == before


def test_never_another_version_in_silence(here: Here) -> None:
    project = here.project
    bad = project.upload("bad", "no json")
    project.run(code=1)
    was = json.loads(here("quarantine list", "--json", code=1)[0])[0]["etag"]
    bad.write_text(lines({"kind": "a", "v": 5}))
    out, err = here("quarantine replay", "up/bad", code=2)
    assert out == ""
    assert err.startswith(
        f"tidemill: the quarantined version {was} of 'up/bad' is gone: it is at version "
    )
    assert err.endswith("; replay that one with --current\n")
    out, err = here("quarantine replay", "up/bad", "--current")
    assert f"not the quarantined {was}" in err
    assert "{'kind': 'a', 'v': 5}" in out
    bad.unlink()
    assert (
        "is deleted, and its quarantined version" in here("quarantine replay", "up/bad", code=2)[1]
    )


def test_code_that_changed_is_said(project: Project) -> None:
    project.upload("bad", "no json")
    project.run(code=1)
    project.write(LOGS.replace("return [", "return [{'kind': 'x', 'v': 0}] or ["))
    done = project.call("quarantine replay", "up/bad")
    assert "note: the code has changed: it failed at version " in done.stderr
    project.write(LOGS.replace("def parse", "def renamed"))
    assert (
        "note: transform parse is not declared any more; replaying with renamed"
        in project.call("quarantine replay", "up/bad", code=1).stderr
    )


def test_an_older_version_is_fetched_where_the_bucket_keeps_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, change = on_s3(tmp_path, versions=True)
    for name, value in project.environment.items():
        monkeypatch.setenv(name, value)
    here = Here(project, capfd)
    change("bad", "no json, the first")
    change("badly", "a neighbour in the listing of versions")
    project.run(code=1)
    change("bad", lines({"kind": "a", "v": 1}))
    _, err = here("quarantine replay", "up/bad", code=1)
    assert "replaying the quarantined version" in err
    assert "which the bucket keeps" in err
    assert "still fails: JSONDecodeError" in err
    assert "up/bad: 1 row" in here("quarantine replay", "up/bad", "--current")[0]
    change("bad", None)
    assert (
        "'up/bad' is deleted; replaying the quarantined version"
        in here("quarantine replay", "up/bad", code=1)[1]
    )


def debugged(project: Project, commands: str, *words: str) -> subprocess.CompletedProcess[str]:
    arguments = project.command("quarantine", "replay", str(project.file), *words)
    return subprocess.run(
        arguments,
        env=project.env(),
        cwd=project.folder,
        input=commands,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_debugger_stops_in_the_users_code(tmp_path: Path) -> None:
    project = Project(tmp_path, ROUTES)
    project.upload("raises.late", BAD["raises.late"])
    project.upload("nojson.plain", BAD["nojson.plain"])
    done = debugged(project, "p 'local', local_value + 1\nw\nq\n", "up/raises.late", "--pdb")
    assert done.returncode == 1, done.stderr
    assert "('local', 14)" in done.stdout
    assert "in Tidemill" not in done.stdout
    assert "worker.py" not in done.stdout + done.stderr
    assert "results.py" not in done.stdout + done.stderr
    done = debugged(
        project,
        "p obj.key\np list(rows.__code__.co_varnames)\nup\np obj.key\nq\n",
        "up/nojson.plain",
        "--pdb",
    )
    assert "-> return [json.loads(line) for line in obj.lines()]" in done.stdout, (
        "the user's frame, not json's"
    )
    assert done.stdout.count("'up/nojson.plain'") >= 1


def test_a_breakpoint_in_the_users_code_works(tmp_path: Path) -> None:
    project = Project(
        tmp_path, LOGS.replace("return [", "mark = 40\n    breakpoint()\n    return [")
    )
    project.upload("a", lines({"kind": "a", "v": 1}))
    done = debugged(project, "p mark + 2\nc\n", "up/a")
    assert "42" in done.stdout
    assert "up/a: 1 row" in done.stdout
    assert done.returncode == 0
    assert debugged(project, "q\n", "up/a").returncode == 130, (
        "leaving the debugger leaves the replay"
    )


# -- secrets ---------------------------------------------------------------------------------------

LEAKY = """
import os
from pipeline import InputRejected, Object, Pipeline

leaky = Pipeline("leaky", source="up/", retention_days=0)

TEXTS = {texts!r}

@leaky.transform(max_attempts=1)
def parse(obj: Object):
    how, _, number = obj.name.partition("-")
    text = TEXTS[int(number)] if number else os.environ["LEAKY_API_KEY"]
    if how == "raise":
        raise ValueError("while asking: " + text)
    if how == "reject":
        raise InputRejected("refused " + text)
    if how == "chain":
        try:
            raise LookupError(text)
        except LookupError as error:
            raise RuntimeError("outer") from error
    if how == "generate":
        return iter_of(text)
    if how == "exit":
        raise SystemExit(text)
    if how == "dies":
        raise BaseException(text)
    if how == "value":
        return [{{"v": 1}}, {{"v": text}}]
    return {{"v": 1}}

def iter_of(text):
    yield {{"v": 1}}
    raise OSError(5, text)
"""


def test_no_secret_reaches_the_bucket_or_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All bytes of all objects, and all that commands print: of each text that the code raises,
    none of its secret.
    """
    held = {
        "LEAKY_API_KEY": "env-" + secrets.token_hex(12),
        "LEAKY_PASSWORD": "p/w+" + secrets.token_hex(6),
    }
    access, signature, token, user, basic, pem = (secrets.token_hex(16).upper() for _ in range(6))
    texts = [
        held["LEAKY_API_KEY"],
        f"key {'AKIA' + access[:16]} is unknown",
        f"https://b.s3.amazonaws.com/x?X-Amz-Credential={token}&X-Amz-Signature={signature}&X-Amz-Security-Token={token}",
        f"postgres://{user}:{held['LEAKY_PASSWORD']}@db/x",
        f"headers: {{'Authorization': 'Basic {basic}'}}",
        f"-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----",
    ]
    hidden = [*held.values(), access[:16], signature, token, user, basic, pem]
    project = Project(tmp_path, LEAKY.format(texts=texts), **held)
    for how in ("raise", "reject", "chain", "generate", "exit"):
        for i in range(len(texts)):
            project.upload(f"{how}-{i}", "x")
    for name in ("fine", "dies", "value"):
        project.upload(name, "x")
    for name, value in held.items():
        monkeypatch.setenv(name, value)
    here = Here(project, capfd)
    done = project.call("run", code=None)
    said = done.stdout + done.stderr
    listed, _ = here("quarantine list", "--json", code=1)
    assert len(json.loads(listed)) == 5 * len(texts) + 2
    said += listed + "".join(
        here("quarantine list", "--files", code=1)
        + here("quarantine list", code=1)
        + here("status")
    )
    said += "".join(here("sql", "SELECT * FROM quarantine", "--format", "json"))
    for how in ("raise", "chain", "generate"):
        for i in range(len(texts)):
            said += "".join(
                here("quarantine show", f"up/{how}-{i}")
                + here("quarantine replay", f"up/{how}-{i}", code=1)
            )
    stored = b"".join(
        path.read_bytes()
        for path in project.root.rglob("*")
        if path.is_file() and "up" not in path.parts
    )
    assert "[redacted]" in said
    assert b"[redacted]" in stored
    assert b"while asking: " in stored
    assert "caused by LookupError" in said
    for secret in hidden:
        assert secret not in said
        assert secret.encode() not in stored
