"""Departures from New York's airports in 2013: one CSV for each day and airport becomes rows of one
table.
"""

import csv
from datetime import date

from tidemill import Object, Pipeline

flights = Pipeline("flights", source="uploads/flights/", partition_by=["month"])


@flights.transform(match="**/*.csv")
def departures(obj: Object):
    for row in csv.DictReader(obj.lines()):
        if row["tailnum"] == "NA":
            obj.reject(row, "no tail number")
            continue
        day = date(int(row["year"]), int(row["month"]), int(row["day"]))
        yield {
            "day": day,
            "month": f"{day:%Y-%m}",
            "carrier": row["carrier"],
            "flight": int(row["flight"]),
            "origin": row["origin"],
            "dest": row["dest"],
            "departure_delay": number(row["dep_delay"]),
            "arrival_delay": number(row["arr_delay"]),
            "miles": int(row["distance"]),
        }


def number(text: str) -> float | None:
    """Minutes of delay; cancelled flights have none."""
    return None if text == "NA" else float(text)


flights.aggregate(
    "delays",
    by=["month", "carrier"],
    sql="""
    SELECT month, carrier, count(*) AS flights,
           round(avg(departure_delay), 1) AS mean_delay,
           round(100.0 * count(*) FILTER (departure_delay > 60) / count(*),
               1) AS percent_over_an_hour
    FROM flights GROUP BY month, carrier
    """,
)
