"""A fan-out with a bound: however many files are there, never more than 50 containers work on them.

    tidemill plan examples/fifty/flows.py --bucket s3://my-bucket --engine modal
        containers, time and dollars beforehand
    tidemill deploy examples/fifty/flows.py --bucket s3://my-bucket --secret my-bucket-keys

Small files travel together, so that 100,000 of them are some hundreds of calls and not 100,000.
`max_cost_usd_per_day` is a second bound: once a day's work comes to that much, the rest waits for
the next day.
"""

import json

from tidemill import Object, Pipeline

clicks = Pipeline(
    "clicks", source="uploads/clicks/", schedule="*/10 * * * *", max_cost_usd_per_day=20
)


@clicks.transform(match="**/*.jsonl", max_containers=50, cpu=1, memory_mb=1024, timeout_s=120)
def parse(obj: Object):
    for line in obj.lines():
        click = json.loads(line)
        yield {"page": click["page"], "visitor": click["visitor"]}


clicks.aggregate(
    "by_page", by=["page"], sql="SELECT page, count(*) AS clicks FROM clicks GROUP BY page"
)
