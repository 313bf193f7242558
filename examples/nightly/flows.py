"""Readings of sensors, taken in as they come, and once more each night: what is known about a
sensor arrives late.

    tidemill deploy examples/nightly/flows.py --bucket s3://my-bucket --secret my-bucket-keys

The deployed app runs the backfill at two o'clock, in the pipeline's time zone, over the files of
the last 24 hours. By hand:

    tidemill backfill examples/nightly/flows.py --since yesterday --until today \\
        --bucket s3://my-bucket --engine modal --wait

Until the new rows of a file are committed its old ones count; they are never there twice.
"""

import csv
from datetime import timedelta

from tidemill import Object, Pipeline

readings = Pipeline(
    "readings", source="uploads/readings/", schedule="*/5 * * * *", timezone="Europe/Riga"
)


@readings.transform(match="**/*.csv", timeout_s=60)
def parse(obj: Object):
    for row in csv.DictReader(obj.lines()):
        yield {"sensor": row["sensor"], "read_at": row["read_at"], "celsius": float(row["celsius"])}


readings.backfill("nightly", schedule="0 2 * * *", since=timedelta(days=1))
readings.aggregate(
    "by_sensor",
    by=["sensor"],
    sql="SELECT sensor, avg(celsius) AS celsius FROM readings GROUP BY sensor",
)
