"""Each example does what its docstring says: deployed to the offline Modal, on real files, with the
commands it shows.
"""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.modal.helpers import Cloud, Deployed
from tests.support.helpers import ROOT, Project

EXAMPLES = ROOT / "examples"


def deployed(cloud: Cloud, name: str) -> Deployed:
    project = cloud.project(EXAMPLES / name / "flows.py")
    project.deploy()
    return project


# -- thumbnails ------------------------------------------------------------------------------------


def image(colour: str, size: tuple[int, int], form: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, form)
    return out.getvalue()


@pytest.mark.parametrize("ordered", [(), ("--ordered",)], ids=["", "ordered"])
def test_thumbnails_waits_for_all_answers_and_one_broken_image_stops_nobody(
    cloud: Cloud, ordered: tuple[str, ...]
) -> None:
    """`.map` with exceptions returned: the others are committed."""
    project = deployed(cloud, "thumbnails")
    for i in range(3):
        project.upload(f"uploads/images/red-{i}.png", image("#c81e1e", (600, 300 + i), "PNG"))
    project.upload("uploads/images/deep/down/blue.jpg", image("#1e1ec8", (64, 64), "JPEG"))
    project.upload(
        "uploads/images/cut-off.png", os.urandom(100) + image("#00ff00", (200, 200), "PNG")[:99]
    )
    report = project.run("--engine", "modal", "--wait", *ordered, code=1)
    assert (report["committed"], report["quarantined"]) == (4, 1)
    query = (
        "SELECT name, width, height, mean_colour, octet_length(jpeg) AS bytes FROM thumbnails ORDER"
        " BY name"
    )
    blue, *reds = project.sql(query)
    assert [row["name"] for row in reds] == ["red-0.png", "red-1.png", "red-2.png"]
    assert {row["mean_colour"] for row in reds} == {"#c81e1e"}
    assert (blue["width"], reds[2]["width"], reds[2]["height"]) == (64, 600, 302)
    [failure] = json.loads(project.call("quarantine list", "--json", code=1).stdout)
    assert failure["key"] == "uploads/images/cut-off.png"
    assert "cannot identify image file" in failure["reason"]
    project.audit()


def test_thumbnails_are_jpeg_images_of_their_own(tmp_path: Path) -> None:
    """The same file on a laptop; the bytes in the table open as an image."""
    project = Project(tmp_path)
    project.file = EXAMPLES / "thumbnails" / "flows.py"
    (project.root / "uploads" / "images").mkdir(parents=True)
    (project.root / "uploads" / "images" / "wide.webp").write_bytes(
        image("#406080", (1000, 500), "WEBP")
    )
    assert project.run()["committed"] == 1
    [row] = project.sql("SELECT hex(jpeg) AS jpeg FROM thumbnails")
    small = Image.open(io.BytesIO(bytes.fromhex(row["jpeg"])))
    assert (small.format, small.size) == ("JPEG", (128, 64))


# -- documents -------------------------------------------------------------------------------------


@contextmanager
def web_server(project: Deployed) -> Iterator[str]:
    """The example's server as a user starts it; its URL."""
    command = [
        sys.executable,
        "-m",
        "examples.documents.web",
        "--bucket",
        project.bucket,
        "--port",
        "0",
    ]
    command += ["--endpoint-url", project.cloud.url]
    with subprocess.Popen(
        command, env=project.env(), cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().split()[1]
        finally:
            server.terminate()


def asked(url: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    content = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(url, content, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_documents_are_submitted_over_http_and_their_job_outlives_the_call(cloud: Cloud) -> None:
    """202 and an id at once; the outcome comes from the bucket. A cancelled job says so."""
    project = deployed(cloud, "documents")
    for name in ("GUIDE.md", "SEMANTICS.md"):
        project.upload(f"uploads/documents/{name}", (ROOT / "docs" / name).read_text())
    with web_server(project) as jobs:
        status, made = asked(jobs, {"keys": ["uploads/documents/GUIDE.md"]})
        assert status == 202
        status, record = asked(f"{jobs}/{made['job']}")  # known from the first moment on
        assert (status, record["id"]) == (200, made["job"])
        project.call("jobs wait", made["job"], "--timeout", "90")
        _, record = asked(f"{jobs}/{made['job']}")
        [file] = record["files"]
        assert (file["key"], file["status"]) == ("uploads/documents/GUIDE.md", "done")
        assert project.sql("SELECT count(*) AS n FROM documents WHERE document = 'GUIDE.md'") == [
            {"n": file["rows"]}
        ]

        cloud.modal.pause("work_passages")
        _, held = asked(jobs, {"keys": ["uploads/documents/SEMANTICS.md"]})
        project.until(lambda: asked(f"{jobs}/{held['job']}")[1]["files"][0]["status"] == "running")
        cloud.modal.wait_idle()
        project.call("jobs cancel", held["job"])
        _, record = asked(f"{jobs}/{held['job']}")
        assert [file["status"] for file in record["files"]] == ["cancelled"]
        cloud.modal.resume("work_passages")

        assert asked(f"{jobs}/job-of-nobody")[0] == 404
        assert asked(jobs, {"keys": ["elsewhere/a.md"]})[0] == 400
        assert asked(jobs, {"names": []})[0] == 400
    cloud.modal.wait_idle()
    assert project.audit()["sources"] == {"committed": 1, "quarantined": 1}


# -- languages -------------------------------------------------------------------------------------

TEXTS = {
    "en": (
        "The quick brown fox jumps over the lazy dog, and nobody in the village was surprised to"
        " see it."
    ),
    "de": (
        "Der schnelle braune Fuchs springt über den faulen Hund, und niemand im Dorf war"
        " überrascht."
    ),
    "fr": (
        "Le renard brun et rapide saute par-dessus le chien paresseux, et personne au village ne"
        " fut surpris."
    ),
    "lv": "Ātrā brūnā lapsa lec pāri slinkajam sunim, un neviens ciematā par to nebija pārsteigts.",
}


def test_languages_are_found_by_a_model_in_batches_whose_fill_status_shows(cloud: Cloud) -> None:
    """GPUs and batches are in the definition, a real model is in the containers; 40 texts fill one
    batch, and a quarter of one.
    """
    project = deployed(cloud, "languages")
    for i in range(40):
        language = list(TEXTS)[i % 4]
        project.upload(f"uploads/texts/{language}-{i:02}.txt", TEXTS[language])
    project.fire()
    assert project.sql("SELECT * FROM by_language ORDER BY language") == [
        {"language": language, "texts": 10} for language in ("de", "en", "fr", "lv")
    ]
    assert project.sql(
        "SELECT count(*) AS n FROM languages WHERE text NOT LIKE language || '-%' OR probability"
        " < 0.9"
    ) == [{"n": 0}]
    shown = project.call("status").stdout
    assert "detect: batches 62% full" in shown, shown
    functions = cloud.modal.functions(project.app)
    definition = functions["batch_detect.run"]
    assert (definition.batch_max_size, definition.batch_linger_ms) == (32, 500)
    pools = [
        functions[name].autoscaler_settings.max_containers
        for name in ("work_detect.run", "batch_detect.run")
    ]
    assert pools == [3, 1], "small tasks share a container, the others have the rest"
    assert cloud.modal.gpus(project.app, "work_detect.run") == ["L4:1", "A10:1"]
    assert any(
        "py3langid==0.4.0" in command
        for command in cloud.modal.image_commands(project.app, "work_detect.run")
    )
    project.audit()


def test_languages_runs_on_a_laptop_as_it_is(tmp_path: Path) -> None:
    """The same file, the same model, no Modal."""
    project = Project(tmp_path)
    project.file = EXAMPLES / "languages" / "flows.py"
    (project.root / "uploads" / "texts").mkdir(parents=True)
    for language, text in TEXTS.items():
        (project.root / "uploads" / "texts" / f"{language}.txt").write_text(text)
    assert project.run()["committed"] == 4
    assert project.sql("SELECT count(*) AS n FROM languages WHERE text = language || '.txt'") == [
        {"n": 4}
    ]


# -- retry -----------------------------------------------------------------------------------------


class Rates:
    """A service that knows exchange rates, is away for some currencies, and counts who asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.away = {"sek", "nok"}
        rates = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                currency = self.path.strip("/")
                rates.asked[currency] += 1
                self.send_response(503 if currency in rates.away else 200)
                self.end_headers()
                self.wfile.write(b'{"rate": 0.5}')

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Rates:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_retry_runs_the_failed_files_and_no_others(cloud: Cloud) -> None:
    """The service saw one call for each file that succeeded, and two for each that failed and was
    retried.
    """
    with Rates() as service:
        cloud.modal.secrets["rates-service"] = {"RATES_URL": service.url}
        project = deployed(cloud, "retry")
        for currency in ("usd", "gbp", "chf", "sek", "nok"):
            project.upload(
                f"uploads/orders/2026-01-05-{currency}.csv", "order,amount\na1,10\na2,30\n"
            )
        report = project.run("--engine", "modal", "--wait", code=1)
        assert (report["committed"], report["quarantined"]) == (3, 2)
        project.run("--engine", "modal", "--wait")  # nothing is new: nothing is asked
        assert service.asked == dict.fromkeys(("usd", "gbp", "chf", "sek", "nok"), 1)

        service.away.clear()
        project.call("quarantine retry", "--all")
        report = project.run("--engine", "modal", "--wait")
        assert (report["planned"], report["committed"]) == (2, 2)
        assert service.asked == {"usd": 1, "gbp": 1, "chf": 1, "sek": 2, "nok": 2}
    assert project.sql("SELECT count(*) AS n, sum(euros) AS euros FROM orders") == [
        {"n": 10, "euros": 100.0}
    ]
    project.audit()


# -- fifty -----------------------------------------------------------------------------------------


def test_fifty_never_has_more_containers_and_many_files_are_few_inputs(cloud: Cloud) -> None:
    """The bound is in the definition that Modal gets; 120 small files are a call or two."""
    project = deployed(cloud, "fifty")
    assert cloud.modal.functions(project.app)["work_parse"].autoscaler_settings.max_containers == 50
    admission = random.Random(5)
    for i in range(120):
        clicks = [{"page": admission.choice(["/", "/buy"]), "visitor": i} for _ in range(3)]
        project.upload(
            f"uploads/clicks/{i:03}.jsonl", "".join(json.dumps(click) + "\n" for click in clicks)
        )
    shown = project.call("plan", "--engine", "modal").stdout
    assert "120 new files" in shown
    assert "max_cost_usd_per_day=20 allow 120 of 120 files" in shown
    project.fire()
    assert project.sql("SELECT sum(clicks) AS clicks FROM by_page") == [{"clicks": 360}]
    assert 1 <= len(project.inputs("work_parse")) <= 2
    project.audit()


# -- nightly ---------------------------------------------------------------------------------------


def dated(project: Deployed, key: str, when: datetime) -> None:
    """Make the S3 server believe that an object was written then; its API has no way to say so."""
    from moto.backends import get_backend

    bucket, _, prefix = project.bucket.removeprefix("s3://").partition("/")
    account = get_backend("s3")["123456789012"]["aws"]
    account.buckets[bucket].keys[f"{prefix}/{key}"].last_modified = when.replace(tzinfo=None)


def test_nightly_runs_again_what_changed_of_late_and_leaves_the_rest(cloud: Cloud) -> None:
    """The schedule fires; then the same by hand, for yesterday's files alone."""
    project = deployed(cloud, "nightly")
    now = datetime.now(UTC)
    yesterday = (now - timedelta(days=1)).replace(hour=12, minute=0)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    ages = {
        "fresh": max(today, now - timedelta(hours=1)),
        "yesterdays": yesterday,
        "old": now - timedelta(days=9),
    }
    for name, when in ages.items():
        project.upload(
            f"uploads/readings/{name}.csv", f"sensor,read_at,celsius\n{name},2026-01-05T08:00,4\n"
        )
        dated(project, f"uploads/readings/{name}.csv", when)
    project.fire()
    before = commits(project)
    assert set(before) == set(ages)

    assert (
        cloud.modal.functions(project.app)["backfill_nightly"].schedule.cron.cron_string
        == "0 2 * * *"
    )
    assert (
        cloud.modal.functions(project.app)["backfill_nightly"].schedule.cron.timezone
        == "Europe/Riga"
    )
    project.fire("backfill_nightly")
    after = commits(project)
    assert after["fresh"] > before["fresh"]
    assert after["old"] == before["old"]

    by_hand = ["--since", "yesterday", "--until", "today", "--engine", "modal", "--wait", "--json"]
    done = project.call("backfill", *by_hand)
    assert json.loads(done.stdout.splitlines()[0])["committed"] == 1
    last = commits(project)
    assert last["yesterdays"] > after["yesterdays"]
    assert (last["fresh"] > after["fresh"], last["old"]) == (False, before["old"])
    assert project.sql("SELECT count(*) AS n FROM readings") == [{"n": 3}]
    project.audit()


def commits(project: Deployed) -> dict[str, int]:
    """By sensor, the commit that its rows are of."""
    found = project.sql("SELECT key, sequence FROM sources")
    return {Path(row["key"]).stem: row["sequence"] for row in found}
