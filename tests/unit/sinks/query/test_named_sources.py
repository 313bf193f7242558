"""What is read off SQL's parse tree: which sources a statement names, and which aggregates can be
merged.
"""

from __future__ import annotations

import duckdb
import pytest

from sinks.aggregates.merge import merge_of
from sinks.query.named_sources import sources_asked

CONNECTION = duckdb.connect()


@pytest.mark.parametrize(
    ("statement", "keys"),
    [
        ("SELECT * FROM t WHERE _source_key = 'a''b'", ["a'b"]),
        ("SELECT * FROM t x WHERE x._source_key IN ('a', 'b') AND n > 1", ["a", "b"]),
        ("SELECT * FROM T WHERE 'q' = _source_key ORDER BY 1 LIMIT 3", ["q"]),
        ("SELECT * FROM t WHERE _source_key IN ('a', 'b') AND _source_key = 'b'", ["b"]),
        ("SELECT * FROM t WHERE _source_key = 'a' OR n = 1", None),
        ("SELECT * FROM t WHERE NOT _source_key = 'a'", None),
        ("SELECT * FROM t WHERE _source_key <> 'a'", None),
        ("SELECT * FROM t WHERE _source_key LIKE 'a%'", None),
        ("SELECT * FROM t WHERE _source_key = other", None),
        ("SELECT * FROM t WHERE _source_key IN ('a', other)", None),
        ("SELECT * FROM t WHERE _source_key IN (SELECT k FROM t)", None),
        ("SELECT * FROM t, u WHERE _source_key = 'a'", None),
        ("SELECT * FROM u WHERE _source_key = 'a'", None),
        ("SELECT (SELECT count(*) FROM t) FROM t WHERE _source_key = 'a'", None),
        ("WITH x AS (SELECT * FROM t WHERE _source_key = 'a') SELECT * FROM x", None),
        ("SELECT * FROM t WHERE _source_key = 'a' UNION ALL SELECT * FROM t", None),
        ("SELECT * FROM t HAVING _source_key = 'a'", None),
        ("SELECT FROM WHERE _source_key", None),
        ("SELECT * FROM t WHERE t._source_key = 'a'", ["a"]),
        ("SELECT * FROM t WHERE n._source_key = 'a'", None),
        ("SELECT * FROM t WHERE t.t._source_key = 'a'", None),
        ("SELECT * FROM t z WHERE t._source_key = 'a'", None),
        ("SELECT * FROM t AS q(_source_key) WHERE _source_key = 'a'", None),
        ("SELECT x AS _source_key FROM t WHERE _source_key = 'a'", None),
    ],
)
def test_the_sources_that_a_statement_names(statement: str, keys: list[str] | None) -> None:
    assert sources_asked(CONNECTION, statement, "t") == keys


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT k, count(*) AS n FROM t GROUP BY k",
        "SELECT k, sum(a + b) AS n, avg(c) AS m FROM t WHERE a > 1 GROUP BY ALL;",
        "SELECT k, min(a) AS a, max(a) FILTER (b > 1) AS b FROM T GROUP BY 1",
        "SELECT lower(x) AS k, count(a) AS n FROM t GROUP BY lower(x)",
        "FROM t SELECT k, sum(a) AS n GROUP BY ALL",
        'SELECT k, "avg"(a /* ( */) FILTER (b > 1) AS é, /* , */ sum(a) AS n FROM t GROUP BY 1',
    ],
)
def test_aggregates_that_are_merged(statement: str) -> None:
    assert merge_of(CONNECTION, statement, "t", {"k": "k"}) is not None


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT k, count(DISTINCT a) AS n FROM t GROUP BY k",
        "SELECT k, count(*) AS n FROM t GROUP BY k HAVING n > 1",
        "SELECT k, count(*) AS n FROM t GROUP BY k, other",
        "SELECT k, count(*) AS n FROM t GROUP BY k ORDER BY k",
        "SELECT k, count(*) AS n FROM t GROUP BY k LIMIT 3",
        "SELECT DISTINCT k, count(*) AS n FROM t GROUP BY k",
        "SELECT k, count(*) AS n FROM t JOIN u USING (k) GROUP BY k",
        "SELECT k, count(*) AS n FROM (SELECT * FROM t) GROUP BY k",
        "SELECT k, count(*) AS n FROM u GROUP BY k",
        "SELECT k, count(*) * 2 AS n FROM t GROUP BY k",
        "SELECT k, count(*) FROM t GROUP BY k",
        "SELECT k, median(a) AS n FROM t GROUP BY k",
        "SELECT k, sum(a) OVER () AS n FROM t",
        "SELECT k, first(a ORDER BY b) AS n FROM t GROUP BY k",
        "SELECT count(*) AS n FROM t",
        "SELECT k, sum(a) AS n FROM t WHERE a IN (SELECT 1) GROUP BY k",
        "SELECT k, other, count(*) AS n FROM t GROUP BY ALL",
        "SELECT k, count(*) AS n FROM t GROUP BY CUBE (k)",
        "WITH t AS (SELECT 1 AS k) SELECT k, count(*) AS n FROM t GROUP BY k",
        "SELECT k, count(*) AS n FROM t USING SAMPLE 10% GROUP BY k",
        "SELECT k, any_value(a) AS n FROM t GROUP BY k",
        "SELECT k, n: sum(a) FROM t GROUP BY ALL",
        "SELECT sum(a) AS n, k FROM t GROUP BY 2",
    ],
)
def test_aggregates_that_are_not(statement: str) -> None:
    assert merge_of(CONNECTION, statement, "t", {"k": "k"}) is None
