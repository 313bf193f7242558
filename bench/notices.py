"""python -m bench.notices --files 50: seconds from an upload to its committed row, as seen by the
bucket's own notifications.

moto serves S3 and SQS over HTTP in this process; `tidemill run --watch --queue` runs beside it. A
file counts as committed when the watching run has printed its line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import boto3

from tests.support.servers import KEYS, moto_url

FLOW = """
from pipeline import Pipeline, Object

uploads = Pipeline("uploads", source="up/")

@uploads.transform
def rows(obj: Object):
    return [{"text": line} for line in obj.lines()]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=50)
    files = parser.parse_args().files
    url = moto_url()
    s3, sqs = (
        boto3.client(name, endpoint_url=url, region_name="us-east-1") for name in ("s3", "sqs")
    )
    s3.create_bucket(Bucket="bench")
    queue = sqs.create_queue(QueueName="bench")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"][
        "QueueArn"
    ]
    configuration = {"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]}
    s3.put_bucket_notification_configuration(
        Bucket="bench", NotificationConfiguration=configuration
    )
    with tempfile.TemporaryDirectory() as folder:
        flow = Path(folder) / "flow.py"
        flow.write_text(FLOW)
        s3.put_object(Bucket="bench", Key="up/first", Body=b"1\n")
        command = [
            sys.executable,
            "-m",
            "pipeline.cli",
            "run",
            str(flow),
            "--watch",
            "--json",
            "--queue",
            queue,
        ]
        environment = {
            **os.environ,
            **KEYS,
            "TIDEMILL_BUCKET": "s3://bench",
            "AWS_ENDPOINT_URL": url,
        }
        watcher = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert watcher.stdout is not None
        while not json.loads(watcher.stdout.readline())["committed"]:
            pass
        spent = []
        for i in range(files):
            began = time.perf_counter()
            s3.put_object(Bucket="bench", Key=f"up/{i:06}", Body=b"1\n")
            while not json.loads(watcher.stdout.readline())["committed"]:
                pass
            spent.append(time.perf_counter() - began)
        watcher.send_signal(signal.SIGINT)
        watcher.wait()
    print(
        f"{files} files: median {statistics.median(spent):.2f} s, slowest {max(spent):.2f} s from"
        " upload to commit"
    )


if __name__ == "__main__":
    main()
