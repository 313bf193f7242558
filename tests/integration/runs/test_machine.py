"""The machine does not leak in: zone, locale, home, directory and umask change neither what is
committed nor what is read.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import duckdb
import pytest

from tests.support.helpers import ROOT, Project, lines

DAYS = """
import json
from datetime import datetime
from pipeline import Pipeline, Object
from sinks import Catalogue, DuckDBFile

t = Pipeline("t", source="up/"{declared})

@t.transform
def rows(obj: Object):
    for line in obj.lines():
        row = json.loads(line)
        yield {{**row, "seen": datetime.fromisoformat(row["seen"])}}

t.dimension("names", "names.csv")
t.check("on_the_fifth", "day(seen) = {day}", action="reject")
t.aggregate("by_day", by={{"day": "seen::DATE"}},
    sql="SELECT seen::DATE AS day, count(*) AS n FROM t GROUP BY 1")
t.aggregate("texts", by=["who"],
    sql="SELECT who, string_agg(seen::VARCHAR, ',' ORDER BY id) AS seen FROM t GROUP BY 1")
t.sink("file", DuckDBFile({file!r}))
t.sink("views", Catalogue("views.duckdb"))
"""
ROWS = lines(
    {"id": 1, "who": "Ānna", "seen": "2026-01-05T23:30:00+00:00"},
    {"id": 2, "who": "Bo", "seen": "2026-01-05T01:30:00+00:00"},
)
HERE = {"TZ": "UTC", "PYTHONHASHSEED": "0"}
ELSEWHERE = {
    "TZ": "Asia/Tokyo",
    "LC_ALL": "C",
    "LANG": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONIOENCODING": "ascii",
    "PGTZ": "Asia/Tokyo",
}
ASKED = (
    (
        "sql",
        (
            "SELECT id, who, seen, seen::DATE AS d, seen::VARCHAR AS v, DATE"
            " '2026-01-05'::TIMESTAMPTZ AS t FROM t ORDER BY id"
        ),
    ),
    ("sql", "FROM by_day ORDER BY day"),
    ("sql", "FROM texts ORDER BY who"),
    ("sql", "SELECT count(*) AS n FROM t__rejected"),
    ("sql", "SELECT t.id, n.name FROM t JOIN names n USING (id) ORDER BY ALL"),
    ("aggregate", "--check"),
    ("audit",),
    ("schema show",),
)
TABLE = """
import sys
sys.path.insert(0, {folder!r})
from flow import t
with t.table({bucket!r}) as table:
    print(table.schema.field("seen").type,
        table.arrow().sort_by("id").to_pylist()[0]["seen"].isoformat())
    print(table.relation.aggregate("min(seen::DATE)::VARCHAR AS day").fetchall(),
        table.aggregate("by_day").to_pylist())
    print(table.pandas().sort_values("id")["seen"].iloc[0].isoformat(),
        table.polars().sort("id")["seen"][0].isoformat())
"""


class Machine(Project):
    """Runs its commands in cold processes, in an environment of nothing but this."""

    def __init__(
        self, folder: Path, bucket: Path, source: str, environment: Mapping[str, str], umask: int
    ) -> None:
        folder.mkdir(exist_ok=True)
        bucket.mkdir(exist_ok=True)
        super().__init__(folder, source, str(bucket), **environment)
        self.umask = umask

    def env(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "TIDEMILL_BUCKET": self.bucket,
            **self.environment,
        }

    def finish(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self._output(self.command(*words))

    def script(self, text: str, *, utf8: bool = True) -> str:
        done = self._output([sys.executable, *(["-X", "utf8"] if utf8 else []), "-c", text])
        assert not done.returncode, done.stderr
        return done.stdout

    def _output(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        env, umask = self.env(), self.umask
        return subprocess.run(
            command,
            env=env,
            cwd=self.folder,
            umask=umask,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=180,
        )


def two_machines(tmp_path: Path, declared: str = "", day: int = 5) -> list[Machine]:
    """Each with a bucket of its own and the same uploads."""
    found = []
    for name, environment, umask in (("here", HERE, 0o022), ("elsewhere", ELSEWHERE, 0o077)):
        source = DAYS.format(declared=declared, day=day, file=str(tmp_path / f"{name}.duckdb"))
        machine = Machine(tmp_path / name, tmp_path / f"{name}-bucket", source, environment, umask)
        (Path(machine.bucket) / "up").mkdir()
        (Path(machine.bucket) / "up" / "ä.jsonl").write_text(ROWS, encoding="utf-8")
        (Path(machine.bucket) / "names.csv").write_text("id,name\n1,Ānna\n", encoding="utf-8")
        machine.call("run")
        found.append(machine)
    return found


FORMS = ((), ("--json",), ("--format", "csv"))
BATCH = """
from pipeline.cli import invoke, speak_utf8
speak_utf8()
for words in {commands!r}:
    print("ended with", invoke(words), flush=True)
"""


def answers(machine: Machine) -> list[str]:
    """What all are asked: the first in processes of its own, the others in one, since each takes a
    second to begin.
    """
    first, *others = ASKED
    found = [machine.call(*first, *form).stdout for form in FORMS]
    commands = [
        [*command.split(), str(machine.file), *words, *form, "--bucket", machine.bucket]
        for command, *words in others
        for form in (FORMS if command == "sql" else FORMS[:1])
    ]
    batch = machine.script(BATCH.format(commands=commands), utf8=False)
    assert batch.splitlines().count("ended with 0") == len(commands), batch
    batch = batch.replace(str(machine.file), "flow.py").replace(machine.bucket, "bucket")
    return [
        *found,
        batch,
        machine.script(TABLE.format(folder=str(machine.folder), bucket=machine.bucket)),
    ]


@pytest.mark.parametrize(
    ("declared", "day", "days"),
    [("", 5, ["2026-01-05"]), (", timezone='Asia/Tokyo'", 6, ["2026-01-06"])],
    ids=["UTC", "declared"],
)
def test_everything_is_the_same_on_every_machine(
    tmp_path: Path, declared: str, day: int, days: list[str]
) -> None:
    """Files run there and files run here give the same tables, checks, aggregates and answers, in
    UTC or the zone declared.
    """
    here, elsewhere = two_machines(tmp_path, declared, day)
    assert answers(here) == answers(elsewhere)
    assert (
        [row["day"] for row in here.sql("FROM by_day ORDER BY 1")] == days
        if declared
        else ["2026-01-05"]
    )


def test_a_bucket_is_the_same_from_every_machine(tmp_path: Path) -> None:
    """Asked by another machine, and gone on with there, a bucket has one day for a row."""
    here, elsewhere = two_machines(tmp_path)
    elsewhere.bucket = here.bucket
    assert answers(here) == answers(elsewhere)
    (Path(here.bucket) / "up" / "b.jsonl").write_text(ROWS, encoding="utf-8")
    elsewhere.call("run")
    assert (
        here.sql("FROM by_day") == elsewhere.sql("FROM by_day") == [{"day": "2026-01-05", "n": 4}]
    )
    assert (
        here.call("diff", "1", "2", "--json", code=None).stdout
        == elsewhere.call("diff", "1", "2", "--json", code=None).stdout
    )


def test_sinks_hold_the_same_whoever_fills_them(tmp_path: Path) -> None:
    """A DuckDB file filled in Tokyo has the instants and days of one that was filled in UTC."""
    two_machines(tmp_path)
    found = []
    for name in ("here", "elsewhere"):
        with duckdb.connect(str(tmp_path / f"{name}.duckdb"), read_only=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            found.append(
                connection.execute(
                    "SELECT id, seen::VARCHAR, day::VARCHAR, n FROM t, by_day ORDER BY id"
                ).fetchall()
            )
    assert (
        found[0]
        == found[1]
        == [
            (1, "2026-01-05 23:30:00+00", "2026-01-05", 2),
            (2, "2026-01-05 01:30:00+00", "2026-01-05", 2),
        ]
    )


def test_pipelines_of_two_zones_keep_their_own_days(tmp_path: Path) -> None:
    """Asked together the session is in UTC, and each aggregate in its own pipeline's zone, also one
    that is computed when asked.
    """
    both = """
    import json
    from datetime import datetime
    from pipeline import Pipeline, Object

    def declare(name, zone):
        p = Pipeline(name, source=f"{name}/", timezone=zone)
        @p.transform
        def rows(obj: Object):
            return {"seen": datetime.fromisoformat(obj.text().strip())}
        sql = f"SELECT seen::DATE AS day, count(*) AS n FROM {name} GROUP BY 1 EXTRA"
        p.aggregate(f"{name}_days", by={"day": "seen::DATE"}, sql=sql)
        return p

    tokyo, riga = declare("tokyo", "Asia/Tokyo"), declare("riga", "Europe/Riga")
    """
    project = Project(tmp_path, both.replace(" EXTRA", ""))
    for name in ("tokyo", "riga"):
        (project.root / name).mkdir()
        (project.root / name / "1.txt").write_text("2026-01-05T22:30:00+00:00")
    days = (
        "SELECT t.day AS tokyo, r.day AS riga, (SELECT seen::DATE FROM tokyo) AS utc FROM"
        " tokyo_days t, riga_days r"
    )
    project.call("run")
    expected = [{"tokyo": "2026-01-06", "riga": "2026-01-06", "utc": "2026-01-05"}]
    assert project.sql(days) == expected
    project.write(both.replace(" EXTRA", " HAVING true"))  # other SQL than what was committed
    assert project.sql(days) == expected


def test_another_zone_computes_committed_aggregates_anew(tmp_path: Path) -> None:
    """`timezone` is a part of what an aggregate is: its days follow when it changes."""
    [machine, _] = two_machines(tmp_path)
    source = machine.file.read_text()
    machine.write(source.replace('source="up/"', 'source="up/", timezone="Asia/Tokyo"'))
    days = [{"day": "2026-01-05", "n": 1}, {"day": "2026-01-06", "n": 1}]
    assert machine.sql("FROM by_day ORDER BY day") == days
    machine.run()
    assert machine.sql("FROM by_day ORDER BY day") == days
    machine.call("aggregate", "--check")


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "localtime", "posix/UTC", 5, "europe/RIGA'"])
def test_what_is_no_zone_is_refused(tmp_path: Path, zone: object) -> None:
    """Also names that mean what the machine is set to."""
    project = Project(
        tmp_path,
        f"from pipeline import Pipeline\nt = Pipeline('t', source='up/', timezone={zone!r})\n",
    )
    done = project.call("status", code=2)
    assert "is no time zone" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_one_place_opens_duckdb() -> None:
    """Whoever connects by itself is in the machine's zone."""
    found = []
    for package in ("pipeline", "sinks", "infra"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and ast.unparse(node) in (
                    *(
                        "duckdb.connect",
                        "duckdb.sql",
                        "duckdb.query",
                        "duckdb.execute",
                        "duckdb.default_connection",
                    ),
                ):
                    found.append(path.relative_to(ROOT).as_posix())
    assert found == ["pipeline/sql/connection.py"]


def test_a_connection_reads_nothing_of_the_home(tmp_path: Path) -> None:
    """Settings, secrets and extensions that somebody keeps for DuckDB do not count; cursors are in
    the zone, too.
    """
    script = """
    from pipeline.sql.connection import connect, connect_without_threads
    for connection in (connect(), connect().cursor(), connect_without_threads(),
        connect(timezone="Asia/Tokyo").cursor()):
        asked = "SELECT current_setting('TimeZone'), current_setting('allow_persistent_secrets')"
        print(connection.execute(asked).fetchall())
    """
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TZ": "America/Lima"}
    done = subprocess.run(
        [sys.executable, "-c", "if True:" + script],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == ["[('UTC', False)]"] * 3 + ["[('Asia/Tokyo', False)]"], (
        done.stderr
    )
    assert not [*tmp_path.iterdir()]
