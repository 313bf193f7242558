"""What commands say of what is misspelt, missing or cannot work; and that what they print can be
used.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pipeline.cli import COMMANDS, cli
from tests.support.helpers import LOGS, Project, lines

PLAIN = """
import json
from pipeline import Pipeline, Object

logs = Pipeline("logs", source="up/"{options})

@logs.transform
def parse(obj: Object):
    if "bad" in obj.name:
        raise ValueError("not this one")
    return [json.loads(line) for line in obj.lines()]

{rest}
"""


def plain(options: str = "", rest: str = "") -> str:
    return PLAIN.format(options=options, rest=rest)


def leaves() -> Iterator[tuple[list[str], click.Command]]:
    """Every command that takes a bucket, with its words."""
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        within = command.commands.items() if isinstance(command, click.Group) else [(None, command)]
        for inner, leaf in within:
            if any(parameter.name == "bucket" for parameter in leaf.params):
                yield [name] if inner is None else [name, inner], leaf


# -- buckets, files, groups ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["misspelt", "a file"])
def test_every_command_says_the_same_of_a_bucket_that_is_none(tmp_path: Path, kind: str) -> None:
    project = Project(tmp_path)
    wrong = tmp_path / "bucke" if kind == "misspelt" else project.file
    said = set()
    for words, command in leaves():
        arguments = [
            p
            for p in command.params
            if isinstance(p, click.Argument) and p.name != "file" and p.required
        ]
        done = project.finish(
            *words, str(project.file), *["up/a" for _ in arguments], "--bucket", str(wrong)
        )
        assert done.returncode == 2, (words, done.stdout, done.stderr)
        said.add(done.stderr.strip().splitlines()[-1])
    assert len(said) == 1, said
    [line] = said
    assert (
        (f"did you mean {project.root}?" in line)
        if kind == "misspelt"
        else ("is not a directory" in line)
    )
    assert not (tmp_path / "bucke").exists()


@pytest.mark.parametrize("group", [[], ["quarantine"], ["jobs"], ["schema"]])
def test_a_group_alone_prints_its_help(tmp_path: Path, group: list[str]) -> None:
    project = Project(tmp_path)
    alone, asked = project.finish(*group), project.finish(*group, "--help")
    assert (alone.stdout.strip(), alone.stderr) == (asked.stdout.strip(), "")
    assert alone.stdout.count("\n") > 10


@pytest.mark.parametrize("file", [".", "..", "", "bucket/", "{folder}"])
def test_a_directory_is_no_file(tmp_path: Path, file: str) -> None:
    project = Project(tmp_path)
    done = project.call_on(file.format(folder=tmp_path), "run")
    assert done.returncode == 2
    assert (
        "FILE is empty" in done.stderr
        if not file
        else "is a directory: give the file" in done.stderr
    )
    assert len(done.stderr.splitlines()) == 1
    assert file not in (".", "{folder}") or "flow.py" in done.stderr


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        (
            "http://127.0.0.1:1",
            "127.0.0.1:1 cannot be reached (nothing listens there): check --endpoint-url",
        ),
        ("nonsense", "'nonsense' is no URL of a service"),
        ("ftp://x", "'ftp://x' is no URL of a service"),
    ],
)
def test_a_wrong_endpoint_is_one_line(tmp_path: Path, endpoint: str, said: str) -> None:
    project = Project(
        tmp_path, bucket="s3://bucket", AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="y"
    )
    done = project.call("plan", "--endpoint-url", endpoint, code=2)
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(
    not Path("/usr/bin/setpriv").exists(), reason="drops the right to read everything"
)
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.upload("open/a", lines({"kind": "a", "v": 1}))
    closed = project.upload("closed/b", lines({"kind": "a", "v": 1})).parent
    closed.chmod(0)
    command = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    try:
        done = subprocess.run(
            [*command, *project.command("run", str(project.file))],
            env=project.env(),
            capture_output=True,
            text=True,
            timeout=180,
        )
    finally:
        closed.chmod(0o755)
    assert done.returncode == 2
    assert (
        done.stderr
        == "tidemill: 'up/closed/': Permission denied (check the permissions of the bucket's"
        " directory)\n"
    )


# -- names that cannot work ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["freeze", "rescue"])
def test_a_check_on_a_column_that_cannot_come_stops_the_run_before_anything_runs(
    tmp_path: Path, mode: str
) -> None:
    project = Project(tmp_path, plain(f', schema_mode="{mode}"'))
    project.upload("a", lines({"amount": 1}))
    project.run()
    project.write(plain(f', schema_mode="{mode}"', 'logs.check("pos", "ammount > 3")'))
    project.upload("b", lines({"amount": 2}))
    for command in ("run", "plan", "backfill"):
        said = project.call(command, code=2).stderr
        assert "check pos: the columns are fixed" in said
        assert "did you mean 'amount'?" in said
    # the source of before, in its commit
    assert project.call("status", "--json").stdout.count('"committed": 1,') == 2
    project.write(
        plain(
            f', schema_mode="{mode}"', 'logs.check("own", "_source_key IS NOT NULL AND AMOUNT > 0")'
        )
    )
    assert project.run()["committed"] == 1


@pytest.mark.parametrize("options", ["", ', schema_mode="freeze"'])
def test_a_check_on_a_column_that_no_file_brought_is_a_warning(
    tmp_path: Path, options: str
) -> None:
    """In the run that commits the first rows, and while files may bring the column in each later
    one.
    """
    project = Project(tmp_path, plain(options, 'logs.check("pos", "ammount > 3")'))
    project.upload("a", lines({"amount": 1}))
    assert "did you mean 'amount'?" in project.call("run").stderr
    if not options:
        assert "did you mean 'amount'?" in project.call("run").stderr
        assert "did you mean 'amount'?" in project.call("plan").stdout
        project.upload("b", lines({"amount": 1, "ammount": 9}))
        assert "did you mean" in project.call("run").stderr
        assert "did you mean" not in project.call("run").stderr


def test_order_and_partitions_by_a_column_that_cannot_come_are_refused(tmp_path: Path) -> None:
    project = Project(tmp_path, plain(', schema_mode="freeze"'))
    project.upload("a", lines({"amount": 1}))
    project.run()
    for option in ("order_by", "partition_by"):
        project.write(plain(f', schema_mode="freeze", {option}=["amuont"]'))
        assert f"{option}: the columns are fixed" in project.call("run", code=2).stderr


@pytest.mark.parametrize("command", ["run", "plan", "backfill", "aggregate", "submit"])
def test_an_aggregate_that_is_no_sql_is_refused_before_anything_runs(
    tmp_path: Path, command: str
) -> None:
    project = Project(
        tmp_path,
        plain(
            rest=(
                'logs.aggregate("by_at", by=["at"], sql="SELECT at, count(*) AS n FROM logs GROUP'
                ' BY 1")'
            )
        ),
    )
    project.upload("a", lines({"at": 1}))
    done = project.call(command, *(["up/a"] if command == "submit" else []), code=2)
    assert "aggregate by_at of logs: its SQL cannot be read: Parser Error" in done.stderr
    assert 'write "at", with the quotes' in done.stderr
    assert not list(project.root.rglob("*.parquet"))


def test_an_aggregate_that_cannot_be_computed_is_said_before_a_run_and_refused_over_fixed_columns(
    tmp_path: Path,
) -> None:
    bad = 'logs.aggregate("bad", by=["x"], sql="SELECT x, count(*) AS n FROM logs GROUP BY x")'
    second = (
        'more = Pipeline("more", source="other/")\n\n@more.transform\ndef fine(obj: Object):\n   '
        ' return {"a": 1}\n'
    )
    project = Project(tmp_path, plain(rest=bad + "\n\n" + second))
    project.upload("a", lines({"kind": "a"}))
    first = project.call("run", code=2)
    assert "aggregate bad of logs" in first.stderr
    again = project.call("run", code=2).stderr.splitlines()
    assert "warning: aggregate bad of logs cannot be computed" in again[0]
    project.upload("b", lines({"kind": "a", "x": 1}))
    project.call("run")
    assert "warning" not in project.call("run").stderr

    frozen = (
        Project(tmp_path / "frozen", plain(', schema_mode="freeze"'))
        if (tmp_path / "frozen").mkdir() is None
        else project
    )
    frozen.upload("a", lines({"kind": "a"}))
    frozen.run()
    frozen.write(plain(', schema_mode="freeze"', bad))
    frozen.upload("b", lines({"kind": "b"}))
    assert "aggregate bad of logs cannot be computed" in frozen.call("run", code=2).stderr
    frozen.write(plain())
    assert frozen.run()["committed"] == 1


def test_a_statement_that_fails_at_a_columns_name_says_what_to_quote(tmp_path: Path) -> None:
    project = Project(tmp_path, plain())
    project.upload("a", lines({"at": 1, "order": 2, "kind": "a"}))
    project.run()
    for statement, hint in {
        "SELECT at FROM logs": 'write "at"',
        "SELECT kind, max(at) FROM logs WHERE at > 0 GROUP BY 1": 'write "at"',
        "SELECT at, order FROM logs": 'write "at" and "order"',
    }.items():
        assert hint in project.call("sql", statement, code=2).stderr
    for statement in ("SELECT kind FROM logs WHERE", "SELEC 1", "SELECT 'at' FROM logs WHERE"):
        assert "with the quotes" not in project.call("sql", statement, code=2).stderr
    named = (
        Project(tmp_path / "named", plain().replace('"logs"', '"order"'))
        if (tmp_path / "named").mkdir() is None
        else project
    )
    named.upload("a", lines({"v": 1}))
    named.run()
    assert 'as a name write "order"' in named.call("sql", "SELECT * FROM order", code=2).stderr
    assert project.sql('SELECT "at", "order" FROM logs') == [{"at": 1, "order": 2}]


# -- what was, and what differs --------------------------------------------------------------------


def doubled(project: Project, factor: int) -> None:
    project.write(
        plain(rest="")
        .replace(
            "[json.loads(line) for",
            f"[{{**r, 'v': r['v'] * {factor}}} for r in map(json.loads, [line for",
        )
        .replace("in obj.lines()]", "in obj.lines()])]")
    )


def test_a_key_is_shown_before_and_after_in_one_row(tmp_path: Path) -> None:
    project = Project(tmp_path)
    doubled(project, 1)
    project.upload("a", lines(*({"id": i, "v": i, "same": "x"} for i in range(30))))
    project.run()
    doubled(project, 2)
    project.call("backfill", "--new-generation")
    [found] = json.loads(
        project.call("diff", "--key", "id", "--examples", "3", "--json", code=1).stdout
    )
    assert found["examples"] == [
        {"_change": "changed", "id": i, "v": i, "v (after)": 2 * i} for i in (1, 2, 3)
    ]
    shown = project.call("diff", "--key", "id", "--examples", "3", code=1).stdout
    assert "v (after)" in shown
    assert "same" not in shown.partition("_change")[2]
    by_source = json.loads(project.call("diff", "--examples", "4", "--json", code=1).stdout)[0][
        "examples"
    ]
    assert [one["_side"] for one in by_source] == ["before", "after", "before", "after"]


def test_rows_that_came_and_went_are_shown_by_their_keys(tmp_path: Path) -> None:
    project = Project(tmp_path, plain())
    project.upload("a", lines({"id": 1, "v": 1}, {"id": 2, "v": 2}))
    project.run()
    project.write(
        plain().replace("[json.loads(line) for", "[{'id': json.loads(line)['id'] + 1, 'v': 2} for")
    )
    project.call("backfill", "--new-generation")
    found = json.loads(project.call("diff", "--key", "id", "--json", code=1).stdout)[0]["examples"]
    assert [(one["_change"], one["id"]) for one in found] == [("gone", 1), ("added", 3)]


def test_a_commits_number_never_means_another_commit(tmp_path: Path) -> None:
    """Each generation counts its commits from 1: after a publish, a rollback and a drop the answer
    is the same, or a refusal.
    """
    project = Project(tmp_path)
    doubled(project, 1)
    project.upload("a", lines({"v": 1}))
    project.run()
    numbers = range(1, project.run()["sequence"] + 1)

    def at(when: object) -> object:
        done = project.call(
            "sql",
            "SELECT sum(v)::INT AS s FROM logs",
            "--at",
            str(when),
            "--format",
            "json",
            code=None,
        )
        assert done.returncode in (0, 2), done.stderr
        return json.loads(done.stdout)[0]["s"] if done.returncode == 0 else done.stderr

    before = {n: at(n) for n in numbers}
    assert before[numbers[-1]] == 1

    def same() -> None:
        for n, answer in before.items():
            now = at(n)
            assert now == answer or (
                isinstance(now, str) and (f"g1:{n}" in now or f"g0:{n}" in now or "not kept" in now)
            ), (n, now)

    doubled(project, 2)
    project.call("backfill", "--new-generation")
    same()
    assert at(numbers[-1]) == 1  # nothing is published yet
    project.call("publish")
    same()
    n = numbers[-1]
    assert (at(f"g0:{n}"), at(f"g1:{n}")) == (1, 2)
    assert "several generations" in str(at(n))
    assert f"g0:{n}" in project.call("diff", str(n), "live", code=2).stderr
    [found] = json.loads(project.call("diff", f"g0:{n}", "live", "--json", code=1).stdout)
    assert found["changed"] == 1
    project.upload("b", lines({"v": 5}))
    newest = 0
    for i in range(6):  # until its log is the longer one: then its numbers are nobody else's
        project.upload(f"more{i}", lines({"v": 0}))
        newest = project.run()["sequence"]
    assert at(newest) == 12
    project.call("rollback")
    same()
    project.call("generations", "--drop", "1")
    same()
    assert "was dropped" in str(at(f"g1:{n}"))
    assert "has no" in str(at("g7:1")) or "does not exist" in str(at("g7:1"))


def test_a_table_is_read_at_a_commit_of_one_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.declare.load_file import load_pipelines
    from pipeline.errors import SettingsError

    project = Project(tmp_path)
    doubled(project, 1)
    project.upload("a", lines({"v": 1}))
    n = project.run()["sequence"]
    doubled(project, 2)
    project.call("backfill", "--new-generation")
    project.call("publish")
    [logs] = load_pipelines(str(project.file))
    for at, total in ((f"g0:{n}", 1), (f"g1:{n}", 2), ("now", 2)):
        with logs.table(project.bucket, at=at) as table:
            assert table.arrow()["v"].to_pylist() == [total]
    with pytest.raises(SettingsError, match="several generations"):
        logs.table(project.bucket, at=n)
    with pytest.raises(SettingsError, match="no commit and no time"):
        logs.table(project.bucket, at="one day")


# -- what a run says -------------------------------------------------------------------------------


def test_each_run_says_that_files_are_in_quarantine(tmp_path: Path) -> None:
    project = Project(tmp_path, plain())
    project.upload("bad", "{}")
    project.upload("good", lines({"v": 1}))
    first = project.call("run", code=1)
    assert "1 file in quarantine:  tidemill quarantine list" in first.stdout
    assert "1 file in quarantine" in project.call("run").stdout
    assert project.run("--fail-on", "quarantined", code=1)["in_quarantine"] == 1
    (project.root / "up/bad").unlink()
    assert "in quarantine" not in project.call("run", "--fail-on", "quarantined").stdout
    assert project.run("--fail-on", "quarantined")["in_quarantine"] == 0


HOSTILE = (
    "it's $(touch pwned) bad.txt",
    'bad "quoted" `x`',
    "-bad",
    "bad\nline",
    "bad\t\x07bell",
    "b\u00e4d bad\u202e!x",
    "bad\\n",
    "bad*?[a] &;|<>",
)


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="commands are pasted into bash")
def test_printed_commands_work_when_they_are_pasted(tmp_path: Path) -> None:
    """From another environment and directory than those of the command that printed them, whatever
    is in a key.
    """
    project = Project(tmp_path, plain())
    folder = tmp_path / "it's here"
    folder.mkdir()
    file = project.file.rename(folder / "my flow.py")
    program = Path(sys.executable).parent
    env = {**project.env(), "PATH": f"{program}:{os.environ['PATH']}"}
    bare = {name: value for name, value in env.items() if name != "TIDEMILL_BUCKET"}

    def pasted(output: str) -> subprocess.CompletedProcess[str]:
        line = next(part for part in output.splitlines() if "  tidemill " in part).rpartition(
            "  tidemill "
        )[2]
        return subprocess.run(
            ["/bin/bash", "-c", f"tidemill {line}"],
            env=bare,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=180,
        )

    for name in HOSTILE:
        uploaded = project.upload(name, "{}")
        ran = project.call_on(str(file), "run")
        assert ran.returncode == 1
        listed = pasted(ran.stdout)
        assert listed.returncode == 1, listed.stderr
        shown = pasted(listed.stdout)
        assert shown.returncode == 0, (name, listed.stdout, shown.stderr)
        assert "not this one" in shown.stdout
        uploaded.unlink()
        project.call_on(str(file), "run")
    assert not list(tmp_path.rglob("pwned"))


def test_an_empty_source_is_said_to_be_empty(tmp_path: Path) -> None:
    project = Project(tmp_path, plain().replace('"up/"', '"uploads/flight/"'))
    for key in ("uploads/flights/a", "other/b", "uploads/zebra/c"):
        path = project.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    said = "there is no object below 'uploads/flight/'"
    ran = project.call("run").stderr
    assert said in ran
    assert "did you mean 'uploads/flights/'?" in ran
    assert "did you mean 'uploads/flights/'?" in project.call("plan").stdout
    project.write(plain().replace('"up/"', '"uploads/flights/"'))
    # a source may be fixed until there is a commit
    assert "there is no object" not in project.call("run").stderr
    project.write(plain())
    assert "change it back" in project.call("run", code=2).stderr

    empty = Project(tmp_path / "empty", LOGS) if (tmp_path / "empty").mkdir() is None else project
    assert "nor elsewhere in it" in empty.call("run").stderr


def test_keys_that_do_not_exist_are_told(tmp_path: Path) -> None:
    project = Project(tmp_path, plain())
    project.upload("monday.jsonl", lines({"v": 1}))
    reported = project.call("hint", "up/mondy.jsonl", code=1).stderr
    assert "there is no object 'up/mondy.jsonl'" in reported
    assert "did you mean 'up/monday.jsonl'?" in reported
    both = project.call("hint", "up/mondy.jsonl", "up/monday.jsonl")
    assert "there is no object 'up/mondy.jsonl'" in both.stderr
    assert "1 file committed" in both.stdout
    (project.root / "up/monday.jsonl").unlink()
    gone = project.call("hint", "up/monday.jsonl")
    assert "1 file deleted" in gone.stdout
    assert "there is no object" not in gone.stderr
    assert "there is no object 'up/x'" in project.call("submit", "up/x").stderr
    assert "is a whole source" in project.call("hint", "up/", code=2).stderr


def test_a_watching_run_says_what_it_watches_when_it_looked_and_that_its_code_was_edited(
    tmp_path: Path,
) -> None:
    project = Project(tmp_path, "import beside\n" + plain())
    (tmp_path / "beside.py").write_text("X = 1\n")
    project.upload("bad", "{}")
    project.call("run", code=1)
    command = project.command("run", str(project.file), "--watch", "--interval", "0.1")
    with subprocess.Popen(
        command,
        env=project.env(),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as watcher:
        impatient = threading.Timer(120, watcher.kill)  # then lines end, and the test fails
        impatient.start()
        try:
            assert watcher.stderr is not None
            first, second = watcher.stderr.readline(), watcher.stderr.readline()
            assert f"watching for logs ({project.bucket}/up/), every 0.1 s" in first
            assert "last looked at" in second
            (tmp_path / "beside.py").write_text("X = 22\n")
            assert (
                "beside.py was edited: this run goes on with the code it began with"
                in watcher.stderr.readline()
            )
            project.file.write_text(project.file.read_text() + "\n# edited\n")
            assert "flow.py was edited" in watcher.stderr.readline()
            watcher.send_signal(signal.SIGINT)
            assert watcher.wait(60) == 0
            assert watcher.stdout is not None
            assert "1 file in quarantine" in watcher.stdout.read()
        finally:
            impatient.cancel()
            watcher.kill()


def test_a_file_counts_once_however_many_attempts_it_takes(tmp_path: Path) -> None:
    dies = "import os\n" + plain().replace(
        "@logs.transform", "@logs.transform(max_attempts=2)"
    ).replace("    if", '    if obj.name == "4":\n        os._exit(9)\n    if')
    project = Project(tmp_path, dies)
    for i in range(8):
        project.upload(str(i), lines({"v": i}))
    report = project.run(code=1)
    assert (report["planned"], report["committed"], report["quarantined"]) == (8, 7, 1)


def test_a_sink_that_is_down_hides_nothing_of_its_table(tmp_path: Path) -> None:
    source = "from sinks import DuckDBFile\n" + plain(
        rest=f'logs.sink("down", DuckDBFile({str(tmp_path / "file.duckdb")!r}))'
    )
    project = Project(tmp_path, source)
    (tmp_path / "file.duckdb").write_bytes(b"no database" * 1000)
    project.upload("a", lines({"v": 1}))
    sequence = project.run(code=1)["sequence"]
    for options in ([], ["--publish"]):
        [found] = json.loads(project.call("sinks", "--json", *options, code=1).stdout)
        assert (found["sequence"], bool(found["problem"])) == (sequence, True), found
