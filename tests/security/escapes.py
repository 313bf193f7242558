"""What people have tried to get out of a SQL sandbox with, for DuckDB 2.

Each is refused in one line.

In the texts: {folder} is a directory with files to steal or to write beside, {bucket} the bucket,
{other} a Parquet file of another pipeline in it, {own} one of the pipeline asked, {url} an HTTP
server that listens.
"""

from __future__ import annotations

WRITES = [
    "COPY logs TO '{folder}/stolen.csv'",
    "COPY (SELECT * FROM logs) TO '{folder}/stolen.parquet' (FORMAT parquet)",
    (
        "WITH x AS (COPY (SELECT 666 AS v) TO '{own}' (FORMAT parquet, USE_TMP_FILE false)) SELECT"
        " * FROM x"
    ),
    "WITH x AS (COPY logs TO '{folder}/stolen.csv') SELECT * FROM x",
    "EXPORT DATABASE '{folder}/export'",
    "IMPORT DATABASE '{folder}/export'",
    "ATTACH '{folder}/x.db'",
    "ATTACH ':memory:' AS m",
    "ATTACH '{url}/x.db' AS m (READ_ONLY)",
    "DETACH memory",
    "USE memory",
    "COPY FROM DATABASE memory TO m",
    "CREATE TABLE mine AS SELECT 1",
    "CREATE TEMP TABLE mine AS SELECT 1",
    "CREATE VIEW mine AS SELECT 1",
    "CREATE OR REPLACE VIEW logs AS SELECT 1",
    "CREATE MACRO mine(x) AS x + 1",
    "CREATE FUNCTION mine() AS TABLE SELECT * FROM '/etc/passwd'",
    "CREATE SCHEMA mine",
    "CREATE SEQUENCE mine",
    "CREATE TYPE mine AS ENUM ('a')",
    "CREATE INDEX mine ON sources (key)",
    "CREATE SECRET mine (TYPE s3, KEY_ID 'x', SECRET 'y')",
    "CREATE PERSISTENT SECRET mine (TYPE http, BEARER_TOKEN 'y')",
    "CREATE TRIGGER mine AFTER INSERT ON sources FOR EACH ROW SELECT 1",
    "DROP VIEW logs",
    "DROP SCHEMA _tidemill CASCADE",
    "ALTER VIEW logs RENAME TO mine",
    "INSERT INTO sources SELECT * FROM sources",
    "UPDATE sources SET key = 'x'",
    "DELETE FROM sources",
    "TRUNCATE sources",
    "MERGE INTO sources USING logs ON true WHEN MATCHED THEN DELETE",
    "WITH x AS (INSERT INTO sources SELECT * FROM sources RETURNING key) SELECT * FROM x",
    "WITH x AS (DELETE FROM sources RETURNING key) SELECT * FROM x",
    "WITH x AS (UPDATE sources SET key = 'x' RETURNING key) SELECT * FROM x",
    "SELECT * FROM (WITH x AS (DELETE FROM _tidemill.logs RETURNING *) SELECT * FROM x)",
    "EXPLAIN ANALYZE INSERT INTO sources SELECT * FROM sources",
    "EXPLAIN ANALYZE COPY logs TO '{folder}/stolen.csv'",
    "EXPLAIN ANALYZE SELECT 1",
    "COMMENT ON VIEW logs IS 'mine'",
    "CHECKPOINT",
    "FORCE CHECKPOINT",
    "VACUUM",
    "VACUUM ANALYZE sources",
    "ANALYZE",
    "BEGIN",
    "COMMIT",
]

SETTINGS = [
    "SET enable_external_access = true",
    "SET GLOBAL allowed_paths = ['/etc/passwd']",
    "SET memory_limit = '100GB'",
    "SET VARIABLE x = (SELECT 1)",
    "RESET lock_configuration",
    "PRAGMA enable_profiling",
    "PRAGMA database_list",
    "PRAGMA enable_logging",
    "CALL enable_logging(storage := 'file', storage_path := '{folder}/log')",
    "CALL pragma_version()",
    "CALL duckdb_settings()",
    "INSTALL httpfs",
    "FORCE INSTALL spatial FROM '{url}'",
    "LOAD httpfs",
    "LOAD '{folder}/evil.duckdb_extension'",
    "UPDATE EXTENSIONS",
    "SELECT current_setting('temp_directory')",
    "SELECT list_transform(['home_directory'], lambda n: Current_Setting(n))",
    "SELECT 'allowed_paths'.current_setting()",
    "SELECT system.main.current_setting('temp_directory')",
    "SELECT getvariable('x')",
    "SELECT getenv('AWS_SECRET_ACCESS_KEY')",
    "SELECT write_log('x')",
]

FILES = [
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv_auto('/etc/passwd')",
    "SELECT * FROM READ_TEXT('{folder}/secret.txt')",
    "SELECT * FROM read_blob('{folder}/secret.txt')",
    "SELECT * FROM \"read_text\"('{folder}/secret.txt')",
    "SELECT * FROM system.main.read_text('{folder}/secret.txt')",
    "SELECT * FROM read_text(['{own}', '{folder}/secret.txt'])",
    "SELECT * FROM read_text('file://{folder}/secret.txt')",
    "SELECT * FROM read_text('{bucket}/tables/../up/a.jsonl')",
    "SELECT * FROM read_json('{bucket}/up/a.jsonl')",
    "SELECT * FROM read_json_objects_auto('{bucket}/_tidemill/logs/log/*.json')",
    "SELECT * FROM read_ndjson('{bucket}/_tidemill/other/log/*.json')",
    "SELECT * FROM read_parquet('{other}')",
    "SELECT * FROM read_parquet('{own}')",
    "SELECT * FROM parquet_scan('{bucket}/**/*.parquet')",
    "SELECT * FROM parquet_metadata('{other}')",
    "SELECT * FROM parquet_schema('{other}')",
    "SELECT * FROM parquet_kv_metadata('{own}')",
    "SELECT * FROM parquet_bloom_probe('{own}', 'v', 1)",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM read_duckdb('{folder}/x.db')",
    "SELECT * FROM '/etc/passwd'",
    "FROM '{folder}/secret.csv'",
    'SELECT * FROM "{other}"',
    "SELECT (SELECT content FROM read_text('{folder}/secret.txt'))",
    (
        "SELECT * FROM logs WHERE EXISTS (SELECT 1 FROM read_text('{folder}/secret.txt') WHERE"
        " content LIKE 'T%')"
    ),
    "DESCRIBE SELECT * FROM read_csv('{folder}/secret.csv')",
    "SUMMARIZE '{folder}/secret.csv'",
    "SELECT * FROM (DESCRIBE '{folder}/secret.csv')",
    "SELECT * FROM logs, LATERAL (SELECT * FROM read_text('{folder}/secret.txt'))",
    "PIVOT '{folder}/secret.csv' ON a",
    "SELECT 1 UNION ALL SELECT content FROM read_text('{folder}/secret.txt')",
    (
        "WITH RECURSIVE x AS (SELECT '1' a UNION ALL SELECT content FROM"
        " read_text('{folder}/secret.txt')) FROM x"
    ),
    "SELECT * FROM read_csv('/dev/stdin')",
    "SELECT * FROM read_text('/proc/self/environ')",
]

NETWORK = [
    "SELECT * FROM '{url}/x.parquet'",
    "SELECT * FROM read_csv('{url}/x.csv')",
    "SELECT * FROM read_text('{url}/x')",
    "SELECT * FROM 's3://bucket/x.parquet'",
    "SELECT * FROM read_parquet('hf://datasets/x/y.parquet')",
    "SELECT * FROM read_parquet('tidemill://up/a.jsonl')",
    "ATTACH 's3://bucket/x.db'",
]

WITHIN = [
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM query('COPY (SELECT 1) TO ''stolen.csv''')",
    "SELECT * FROM query_table('logs')",
    "SELECT * FROM query_table(['{folder}/secret.csv'])",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "SELECT json_serialize_plan('SELECT * FROM logs')",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DEALLOCATE p",
    "SELECT 1; DROP VIEW logs",
    "SELECT 1; SELECT 2",
    ";",
    "",
    "/* SELECT */ DROP VIEW logs",
    "SELECT 1 /* ; */ ; -- \n DROP VIEW logs",
    "SELECT /**/ * /**/ FROM /**/ read_text /**/ ( '{folder}/secret.txt' )",
    "-- SELECT 1\nCOPY logs TO '{folder}/stolen.csv'",
    "\ufeffCOPY logs TO '{folder}/stolen.csv'",
    "\u00a0COPY\u2003logs TO '{folder}/stolen.csv'",
    "CO\u200bPY logs TO '{folder}/stolen.csv'",
    "\uff33\uff25\uff2c\uff25\uff23\uff34 1",
    "SELECT * FROM read_te\u017ft('{folder}/secret.txt')",
    "SELECT * FROM U&\"read\\005ftext\"('{folder}/secret.txt')",
    "SELECT * FROM $$/etc/passwd$$",
    "SELECT * FROM E'/etc/passwd'",
    "SELECT 'a' \u2018; DROP VIEW logs",
    "SELECT \ud800",
]

CATALOGS = [
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM which_secret('s3://x', 's3')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_settings",
    "SELECT * FROM duckdb_views()",
    "SELECT sql FROM sqlite_master",
    "SELECT * FROM pg_catalog.pg_views",
    "SELECT * FROM pg_views",
    "SELECT * FROM information_schema.views",
    "SELECT pg_get_viewdef(view_oid) FROM duckdb_views()",
    "SELECT pg_get_viewdef(0)",
    "SELECT * FROM duckdb_databases()",
    "SELECT * FROM duckdb_logs",
    "SELECT * FROM duckdb_temporary_files()",
    "SELECT * FROM duckdb_extensions()",
    "SELECT * FROM duckdb_external_file_cache()",
    "SELECT * FROM duckdb_external_resources()",
    "SELECT * FROM register_external_resource('http', 'x', MAP {{}})",
    "SELECT * FROM pragma_database_size()",
    "SELECT * FROM pragma_storage_info('sources')",
    "SHOW DATABASES",
    "SHOW VARIABLES",
    "SELECT * FROM _tidemill.logs",
    "SELECT * FROM memory._tidemill.logs",
    "DESCRIBE _tidemill.logs",
    "SELECT * FROM other",
    "SELECT * FROM other__rejected",
    "SELECT * FROM main.other",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM pandas_scan(1)",
    "SELECT * FROM python_map_function((SELECT 1))",
    "SELECT * FROM visible",
]

ALL = [*WRITES, *SETTINGS, *FILES, *NETWORK, *WITHIN, *CATALOGS]

TOO_LONG = {
    "a long statement": "SELECT " + "1 + " * 20_000 + "1",
    "brackets": "SELECT " + "(" * 20_000 + "1" + ")" * 20_000,
    "lists in lists": "SELECT " + "[" * 20_000 + "]" * 20_000,
    "selects in selects": "SELECT " + "(SELECT " * 4_000 + "1" + ")" * 4_000,
    "not not not": "SELECT " + "NOT " * 12_000 + "true",
    "cases": "SELECT " + "CASE WHEN true THEN " * 2_000 + "1" + " END" * 2_000,
    "joins": "SELECT 1 FROM " + ", ".join(["logs"] * 5_000),
    "an open quote": "SELECT '" + "x" * 49_000,
    "an open comment": "SELECT 1 " + "/*" * 20_000,
}
"""Texts that are made to hurt the parser: refused, or answered, within the time limit."""

BOMBS = {
    "no end": (
        "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r) SELECT count(*) FROM r"
    ),
    "a growing recursion": (
        "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i FROM r, range(2)) SELECT count(*)"
        " FROM r"
    ),
    "a cross join": (
        "SELECT sum(hash(a.range * b.range)) FROM range(100000000) a, range(100000000) b"
    ),
    "a long count": "SELECT count(*) FROM range(1000000000000)",
    "one large text": "SELECT length(repeat('x', 1000000000))",
    "larger texts": "SELECT hash(repeat('xy', 500000000))",
    "texts of all rows": "SELECT string_agg(repeat('x', 1000000)) FROM range(100000)",
    "a list of everything": "SELECT list(range) FROM range(1000000000)",
    "lists that double": (
        "SELECT list_reduce(range(40), lambda a, b: a + b) FROM range(1000000000000)"
    ),
    "a large sort": (
        "SELECT hash(range) h FROM range(1000000000) ORDER BY h LIMIT 1 OFFSET 999999999"
    ),
    "many groups": "SELECT hash(range), count(*) FROM range(10000000000) GROUP BY 1",
    "a large result": "SELECT repeat('x', 1000) FROM range(100000000)",
    "sleep": "SELECT sleep_ms(100000)",
    "postgres sleep": "SELECT pg_sleep(100)",
    "a series": "SELECT unnest(generate_series(1, 1000000000000))",
    "a factorial": "SELECT sum(i::HUGEINT * i * i % 7) FROM range(100000000000) t(i)",
    "regular expressions": (
        "SELECT count(*) FROM range(100000000) t(i) WHERE regexp_matches(repeat('a', 1000) || i,"
        " '(a*)*b')"
    ),
    "edit distances": "SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))",
}
"""Statements that are allowed and do not end, or take all memory. Their process is bounded."""
