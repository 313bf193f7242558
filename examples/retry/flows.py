"""Orders in many currencies become euros, at rates that a web service knows.

When it is away, only what failed is tried again.

    tidemill run examples/retry/flows.py --bucket s3://my-bucket --engine modal --wait
        exit code 1: some files failed
    tidemill quarantine list examples/retry/flows.py --bucket s3://my-bucket
        which, and why
    tidemill quarantine retry examples/retry/flows.py --all --bucket s3://my-bucket
        the service is back
    tidemill run examples/retry/flows.py --bucket s3://my-bucket --engine modal --wait
        only those run

Files that succeeded are not called for again, whether the service, the file or this code was
fixed. (To run them all again after a change of the code there is `tidemill backfill --outdated`.)
The service's address is in the Modal secret `rates-service`, as RATES_URL; on a laptop, in the
environment.
"""

import csv
import json
import os
import urllib.request

from tidemill import Object, Pipeline

orders = Pipeline("orders", source="uploads/orders/", schedule="*/15 * * * *")


@orders.transform(match="**/*.csv", timeout_s=60, secrets=["rates-service"])
def in_euros(obj: Object):
    currency = obj.name.removesuffix(".csv").rpartition("-")[2]
    rate = rate_of(currency)
    for row in csv.DictReader(obj.lines()):
        yield {
            "order_id": row["order"],
            "currency": currency,
            "euros": round(float(row["amount"]) * rate, 2),
        }


def rate_of(currency: str) -> float:
    """Euros for one unit. Raises HTTPError while the service does not know."""
    with urllib.request.urlopen(f"{os.environ['RATES_URL']}/{currency}", timeout=20) as answer:  # noqa: S310 - our own address
        return float(json.load(answer)["rate"])
