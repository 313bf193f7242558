"""The workloads as Tidemill pipelines: what a user would write."""

from bench.userfn import AGGREGATES, BY, describe_image, parse_csv, parse_log
from pipeline import Object, Pipeline

logs = Pipeline("logs", source="raw/")
csv = Pipeline("csv", source="raw/", output="tables/csv/")
images = Pipeline("images", source="raw/", output="tables/images/")
tiny = Pipeline("tiny", source="raw/", output="tables/tiny/")


@logs.transform
def log_rows(obj: Object):
    return parse_log(obj.read(), obj.key)


@csv.transform
def csv_rows(obj: Object):
    return parse_csv(obj.read(), obj.key)


@images.transform
def image_rows(obj: Object):
    return [describe_image(obj.read(), obj.key)]


@tiny.transform
def tiny_rows(obj: Object):
    return parse_log(obj.read(), obj.key)


for pipeline in (logs, csv, images, tiny):
    pipeline.aggregate(
        f"{pipeline.name}_totals",
        by=BY[pipeline.name],
        sql=AGGREGATES[pipeline.name].format(table=pipeline.name),
    )
