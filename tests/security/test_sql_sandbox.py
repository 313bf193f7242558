"""SQL users read the pipeline's tables and nothing else, and cannot take the machine down."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli import invoke
from pipeline.errors import SettingsError
from sinks.query.object_files import LocalFiles
from sinks.query.warehouse import Warehouse
from tests.security.escapes import ALL, BOMBS, TOO_LONG
from tests.support.helpers import LOGS, Project, lines

SECRET = "TOP-SECRET-CONTENT"
GOOD = "SELECT count(*) AS n FROM logs"


class Ground:
    """A bucket with two pipelines, files worth stealing, a server that listens; and all of it as it
    was before.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = Project(
            folder,
            HOME=str(folder / "home"),
            TMPDIR=str(folder / "tmp"),
            AWS_SECRET_ACCESS_KEY=SECRET,
        )
        (folder / "home").mkdir()
        (folder / "tmp").mkdir()
        self.project.upload("a.jsonl", lines({"kind": "x", "v": 1}, {"kind": "y", "v": 2}))
        self.project.write(
            LOGS.replace('"logs"', '"other"')
            .replace("FROM logs", "FROM other")
            .replace("up/", "down/")
        )
        (self.project.root / "down").mkdir()
        (self.project.root / "down" / "b.jsonl").write_text(lines({"kind": SECRET, "v": 1}))
        self.project.run()
        self.project.write(LOGS)
        self.project.run()
        for name in ("secret.txt", "secret.csv"):
            (folder / name).write_text(f"a\n{SECRET}\n")
        self.server = socket.create_server(("127.0.0.1", 0))
        self.connections = 0
        threading.Thread(target=self._count, daemon=True).start()
        self.before = self.everything()

    def _count(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def everything(self) -> dict[str, str]:
        """All files and folders with their content, but for what importing Python leaves."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            if "__pycache__" not in path.parts:
                found[str(path)] = (
                    hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
                )
        return found

    def parquet(self, pipeline: str) -> str:
        return str(next(self.project.root.glob(f"tables/{pipeline}/rows/**/*.parquet")))

    def filled(self, statement: str) -> str:
        return statement.format(
            folder=self.folder,
            bucket=self.project.root,
            other=self.parquet("other"),
            own=self.parquet("logs"),
            url=f"http://127.0.0.1:{self.server.getsockname()[1]}",
        )

    def leaks(self, reported: str, statement: str) -> list[str]:
        """What a message says of files, settings and paths beyond the words of the statement
        itself.
        """
        words = self.filled(statement).replace('"', "'").split("'")
        for word in sorted((w for w in words if len(w) > 4), key=len, reverse=True):
            reported = reported.replace(word, "").replace(word.lower(), "")
        return [
            secret
            for secret in (SECRET, str(self.folder), "tidemill-sql-", "stored_secrets")
            if secret in reported
        ]

    def untouched(self) -> bool:
        return self.everything() == self.before and self.connections == 0


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    made = Ground(tmp_path_factory.mktemp("ground"))
    yield made
    made.server.close()


@pytest.fixture
def at_home(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process's home, temporary and current directories are watched ones."""
    monkeypatch.chdir(ground.folder)
    monkeypatch.setattr(tempfile, "tempdir", str(ground.folder / "tmp"))
    for name, value in ground.project.environment.items():
        monkeypatch.setenv(name, value)


def test_attempts_at_the_command_line(
    ground: Ground, at_home: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, nothing shown of any file, setting or path, nothing written anywhere, nobody
    called.
    """
    for attempt in ALL[::4]:
        statement = ground.filled(attempt)
        command = [
            "sql",
            str(ground.project.file),
            statement,
            "--bucket",
            str(ground.project.root),
            "--format",
            "csv",
        ]
        code, (out, err) = invoke(command), capsys.readouterr()
        assert (code, out, err.count("\n"), "Traceback" in err) == (
            2,
            "",
            1,
            False,
        ), f"{statement!r}: {code} {out} {err}"
        assert not ground.leaks(err, attempt), f"{statement!r}: {err}"
    assert ground.untouched()


def test_a_session_refuses_every_attempt(ground: Ground, at_home: None) -> None:
    """Through the Python interface: one warehouse refuses all of them in one line, and then
    answers.
    """
    assert len(ALL) >= 60
    visible = [{"a": SECRET}]  # a query must not see this program's variables
    with Warehouse(LocalFiles(str(ground.project.root))) as warehouse:
        warehouse.add_view("logs", f"SELECT * FROM read_parquet('{ground.parquet('logs')}')")
        warehouse._paths.append(ground.parquet("logs"))
        warehouse.lock()
        before = ground.everything()  # with the warehouse's own scratch folder
        for attempt in (*ALL, "SELECT 1\0; DROP VIEW logs"):
            with pytest.raises(SettingsError) as refused:
                warehouse.query(ground.filled(attempt), timeout_s=5)
            assert "\n" not in str(refused.value)
            assert not ground.leaks(str(refused.value), attempt), f"{attempt!r}: {refused.value}"
        assert warehouse.query(GOOD).to_pylist() == [{"n": 2}]
        assert ground.everything() == before
    assert visible
    assert ground.untouched()


def test_what_users_do_ask_still_works(
    ground: Ground, at_home: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for statement in (
        GOOD,
        "SHOW TABLES",
        "DESCRIBE logs",
        "SUMMARIZE logs",
        "FROM main.logs SELECT kind ORDER BY ALL",
        "WITH x AS (SELECT * FROM logs), y AS (FROM x) SELECT * FROM y JOIN by_kind USING (kind)",
        "SELECT * FROM logs PIVOT (sum(v) FOR kind IN ('x', 'y'))",
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'logs'",
        "SELECT key, status FROM sources UNION ALL SELECT _source_key, kind FROM logs",
        "SELECT *, row_number() OVER (ORDER BY v) FROM logs QUALIFY v > 0",
        (
            "SELECT unnest([1, 2]), list_transform([1], lambda x: x + 1), * FROM range(3),"
            " generate_series(1, 2)"
        ),
        "SELECT '; DROP TABLE x' AS \"read_csv('/etc/passwd')\" -- a comment; DROP",
    ):
        command = [
            "sql",
            str(ground.project.file),
            statement,
            "--bucket",
            str(ground.project.root),
            "--format",
            "csv",
        ]
        code, (out, err) = invoke(command), capsys.readouterr()
        assert (code, err) == (0, ""), f"{statement}: {err}"
        assert out.count("\n") > 1 or "count" in out


@pytest.mark.parametrize("name", ("a long statement", "brackets", "cases"))
def test_the_parser_is_not_hurt(name: str, ground: Ground) -> None:
    parse(ground, name)


def parse(ground: Ground, name: str) -> None:
    done = ask(ground, TOO_LONG[name], "--timeout", "5")
    assert done.returncode in (0, 2), f"{done.returncode} {done.stderr[-300:]}"
    assert done.stderr.count("\n") == (1 if done.returncode else 0)
    assert ground.untouched()


@pytest.mark.parametrize(
    "name", ("no end", "larger texts", "a list of everything", "a large result")
)
def test_a_bomb_is_stopped(name: str, ground: Ground) -> None:
    """By its time or its memory, in one line, and what it spilled is gone. The others: python -m
    tests.security
    """
    stop(ground, name)


def stop(ground: Ground, name: str) -> None:
    done = ask(ground, BOMBS[name], "--timeout", "0.4", "--memory-mb", "400")
    assert done.returncode == 2, done.stdout[-300:]
    assert done.stderr.count("\n") == 1
    assert any(
        words in done.stderr for words in ("--timeout", "--memory-mb", "Out of Range", "2^32")
    ), done.stderr
    assert ground.untouched()


def test_a_process_that_dies_is_told_in_one_line(ground: Ground, tmp_path: Path) -> None:
    """A crash of the engine itself: simulated by a signal, since no statement is known that does
    it.
    """
    crash = tmp_path / "sitecustomize.py"
    crash.write_text(
        "import os, signal, sys\n"
        "if 'sql' in sys.argv:\n"
        "    import sinks.query.warehouse as w\n"
        "    w.Warehouse.open_query = lambda *a, **k: os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    done = ask(ground, GOOD, PYTHONPATH=f"{tmp_path}:{ground.project.env()['PYTHONPATH']}")
    reported = "tidemill: the query ended its process (SIGSEGV): ask in another way\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", reported)
    assert ground.untouched()
    assert ask(ground, GOOD, "--format", "csv").stdout == "n\n2\n"


def ask(
    ground: Ground, statement: str, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = ground.project.command("sql", str(ground.project.file), statement, *options)
    env = {**ground.project.env(), **environment}
    return subprocess.run(
        command,
        env=env,
        cwd=ground.folder,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def test_a_stopped_command_leaves_no_query_behind(ground: Ground) -> None:
    """SIGTERM to the command ends the query's process too, and its scratch space."""
    command = ground.project.command(
        "sql", str(ground.project.file), "SELECT count(*) FROM range(1000000000000)"
    )
    process = subprocess.Popen(
        command,
        env=ground.project.env(),
        cwd=ground.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    import psutil

    while not psutil.Process(process.pid).children():
        assert process.poll() is None
    [child] = psutil.Process(process.pid).children()
    process.terminate()
    process.communicate(timeout=30)
    assert psutil.wait_procs([child], timeout=30)[1] == []
    assert [*(ground.folder / "tmp").iterdir()] == []
