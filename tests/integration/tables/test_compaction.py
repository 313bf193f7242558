"""`tidemill compact` and `sql --at`: other files, the same rows; and rows as they were."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.helpers import LOGS, Project, lines

ORDERS = """
import json
from pipeline import Pipeline, Object

orders = Pipeline("orders", source="up/", partition_by=["month"], order_by=["shop", "n"],
    retention_days=RETENTION, file_mb=1)

@orders.transform
def parse(obj: Object):
    for line in obj.lines():
        row = json.loads(line)
        if row["n"] < 0:
            obj.reject(row, "negative")
        else:
            yield row

orders.aggregate("by_shop", by=["shop"], sql="SELECT shop, sum(n) AS n FROM orders GROUP BY shop")
"""
ALL = "SELECT month, shop, n, _source_key FROM orders ORDER BY ALL"


def project(folder: Path, retention: str = "7") -> Project:
    return Project(folder, ORDERS.replace("RETENTION", retention))


def upload(shop: Project, name: str, *numbers: int, month: str = "01") -> None:
    shop.upload(name, lines(*({"month": month, "shop": f"s{n % 3}", "n": n} for n in numbers)))


def live_files(shop: Project) -> list[str]:
    return [
        row["key"]
        for row in shop.sql("SELECT key FROM outputs WHERE status = 'live' AND table_name = 'rows'")
    ]


@pytest.fixture(scope="module")
def worn(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Several runs' files, with replaced, deleted and rejected rows."""
    shop = project(tmp_path_factory.mktemp("worn"))
    for i in range(4):
        upload(shop, f"a{i}", i, i + 10, -i, month=f"0{i % 2 + 1}")
        shop.run()
    upload(shop, "a0", 500)
    (shop.root / "up" / "a1").unlink()
    shop.run()
    return shop


def test_compaction_changes_files_and_no_row(worn: Project) -> None:
    before, rejected = (
        worn.sql(ALL),
        worn.sql("SELECT row, _source_key FROM orders__rejected ORDER BY ALL"),
    )
    totals = worn.sql("SELECT * FROM by_shop ORDER BY shop")
    many = live_files(worn)
    done = json.loads(worn.call("compact", "--json").stdout)[0]
    few = live_files(worn)
    assert done["files_before"] > done["files"]
    assert not set(few) & set(many), "files are rewritten, under other names"
    assert sorted(key.split("/")[-2] for key in few) == [
        "month=01",
        "month=02",
    ], "one for each partition"
    assert worn.sql(ALL) == before
    assert worn.sql("SELECT row, _source_key FROM orders__rejected ORDER BY ALL") == rejected
    assert worn.sql("SELECT * FROM by_shop ORDER BY shop") == totals
    stored = sum(pq.read_metadata(worn.root / key).num_rows for key in few)
    assert stored == len(before), "rows that do not count are not in the new files"
    for key in few:
        rows = pq.read_table(worn.root / key, columns=["shop", "n"]).to_pylist()
        assert rows == sorted(rows, key=lambda row: (row["shop"], row["n"]))
    assert "nothing to compact" in worn.call("compact").stdout
    worn.audit()


def test_what_changes_after_a_compaction_follows(worn: Project) -> None:
    worn.call("compact")
    upload(worn, "a2", 900)
    (worn.root / "up" / "a3").unlink()
    upload(worn, "b", 7)
    worn.run()
    expected = [
        {"n": n, "_source_key": f"up/{key}"} for key, n in (("a0", 500), ("a2", 900), ("b", 7))
    ]
    assert worn.sql("SELECT n, _source_key FROM orders ORDER BY _source_key") == expected
    assert worn.sql("SELECT sum(n) AS n FROM by_shop") == [{"n": 1407}], "aggregates too"
    worn.audit()
    worn.call("compact", "--purge")
    assert worn.sql("SELECT n, _source_key FROM orders ORDER BY _source_key") == expected
    assert sum(pq.read_metadata(worn.root / key).num_rows for key in live_files(worn)) == 3
    worn.audit()
    key = live_files(worn)[0]
    reported = json.loads(worn.call("lineage", key, "--json").stdout)[0]
    assert reported["sources"] == ["up/a0", "up/a2", "up/b"]
    assert json.loads(worn.call("lineage", "up/b", "--json").stdout)[0]["outputs"] == live_files(
        worn
    )


def test_old_files_go_with_their_retention(tmp_path: Path) -> None:
    shop = project(tmp_path, retention="0")
    for i in range(3):
        upload(shop, f"a{i}", i)
        shop.run()
    old = live_files(shop)
    shop.call("compact")
    assert all((shop.root / key).exists() for key in old), "readers may still need them"
    shop.call("vacuum")
    assert not any((shop.root / key).exists() for key in old)
    assert [row["n"] for row in shop.sql(ALL)] == [0, 1, 2]
    upload(shop, "a1", 100)
    shop.run()
    assert sorted(row["n"] for row in shop.sql(ALL)) == [0, 2, 100]
    shop.audit()


def test_a_wrong_order_is_one_line_and_nothing_is_lost(tmp_path: Path) -> None:
    shop = project(tmp_path)
    shop.write(ORDERS.replace("RETENTION", "7").replace('"shop", "n"', '"shopp"'))
    for i in range(2):
        upload(shop, f"a{i}", i)
        shop.run()
    failed = shop.call("compact", code=2)
    assert failed.stderr.startswith(
        "tidemill: order_by='shopp' is not a column of the table (month, shop, n, "
    )
    shop.write(ORDERS.replace("RETENTION", "7"))
    assert "2 files" in shop.call("compact").stdout, "the failed one holds nothing back"
    shop.audit()


def test_an_order_by_a_column_that_is_empty_so_far_waits_for_its_values(tmp_path: Path) -> None:
    source = LOGS.replace('source="up/"', 'source="up/", order_by=["late", "v"]')
    assert source != LOGS
    logs = Project(tmp_path, source)
    for i in range(2):
        logs.upload(f"a{i}", lines({"kind": "x", "v": 9 - i, "late": None}))
        logs.run()
    assert "2 files" in logs.call("compact").stdout
    logs.upload("b", lines({"kind": "x", "v": 5, "late": 1}))
    logs.run()
    assert "2 files" in logs.call("compact").stdout
    assert logs.sql("SELECT v FROM logs ORDER BY late NULLS LAST, v") == [
        {"v": 5},
        {"v": 8},
        {"v": 9},
    ]
    logs.audit()


def test_earlier_rows_can_be_asked_for(tmp_path: Path) -> None:
    shop = project(tmp_path)
    upload(shop, "a", 1)
    first = shop.run()["commits"]
    between = datetime.now(UTC)
    upload(shop, "a", 2)
    upload(shop, "b", 3)
    shop.run()
    shop.call("compact")
    shop.call("vacuum")

    def at(when: str) -> list[int]:
        found = shop.call(
            "sql", "SELECT n FROM orders ORDER BY n", "--at", when, "--format", "json"
        ).stdout
        return [row["n"] for row in json.loads(found)]

    assert at(str(first)) == [1]
    assert at(between.isoformat()) == [1]
    assert at("now") == [2, 3]
    assert json.loads(
        shop.call("sql", "SELECT sum(n) AS n FROM by_shop", "--at", str(first), "--json").stdout
    ) == [{"n": 1}]
    assert (
        "has no commit 999 yet: the newest is"
        in shop.call("sql", "SELECT 1", "--at", "999", code=2).stderr
    )
    assert "what is kept begins at" in shop.call("sql", "SELECT 1", "--at", "52w", code=2).stderr
    assert "is no time" in shop.call("sql", "SELECT 1", "--at", "whenever", code=2).stderr


def test_what_retention_lets_go_cannot_be_asked_for(tmp_path: Path) -> None:
    shop = project(tmp_path, retention="0")
    for n in range(3):
        upload(shop, "a", n)
        shop.run()
        shop.call("vacuum")
    failed = shop.call("sql", "SELECT 1", "--at", "1", code=2).stderr
    assert failed.startswith("tidemill: commit 1 of orders is not kept any more: the oldest is ")
    failed = shop.call(
        "sql", "SELECT count(*) FROM orders", "--at", failed.split()[-1], code=2
    ).stderr
    assert failed.startswith(
        "tidemill: what was committed then is not kept any more (retention_days): "
    )


def test_a_statement_that_names_sources_needs_their_files_alone(tmp_path: Path) -> None:
    shop = project(tmp_path)
    for i in range(3):
        upload(shop, f"a{i}", i, i + 10)
        shop.run()
    of = {
        row["key"]: row["k"]
        for row in shop.sql("SELECT o.key, s.key AS k FROM outputs o JOIN sources s USING (output)")
    }
    for key, source in of.items():
        if source != "up/a1":
            (shop.root / key).write_bytes(b"nobody reads this")
    wanted = "_source_key IN ('up/a1', 'up/none') AND n > 5"
    assert shop.sql(f"SELECT n FROM orders WHERE {wanted}") == [{"n": 11}]
    assert shop.sql("SELECT count(*) AS n FROM orders o WHERE 'up/none' = o._source_key") == [
        {"n": 0}
    ]
    assert (
        "up/a1"
        not in shop.call("sql", f"SELECT n FROM orders WHERE NOT ({wanted})", code=None).stdout
    )
    assert (
        shop.call("sql", f"SELECT n FROM orders WHERE {wanted} OR n = 1", code=None).returncode != 0
    ), "this one needs them all"
