"""What is deployed, setting by setting: nothing is left to a default that somebody
else may change.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from modal_proto import api_pb2

from tests.modal.helpers import Cloud, Deployed

RICH = """
from datetime import timedelta
from pipeline import Pipeline, Object
from sinks import Delta, Postgres

media = Pipeline("media", source="up/", schedule="*/5 * * * *", sweep="0 3 * * MON",
    timezone="Europe/Riga",
                 pip=["python-dateutil==2.9.0.post0"], apt=["libmagic1"])

@media.transform(match="**/*.txt", cpu=0.5, memory_mb=512, timeout_s=100, retries=2,
    min_containers=1, max_containers=7,
                 scaledown_window_s=30, region=["eu-west-1", "eu"])
def words(obj: Object):
    return {"n": len(obj.read())}

@media.transform(match="**/*.jpg", gpu=["L4", "A10:2"], batch_size=64, batch_wait_ms=250,
    memory_snapshot=True, secrets=["hub"],
                 volumes={"/models": "weights"}, pip=["pillow==11.0.0"], apt=["ffmpeg"])
class Embed:
    def load(self): ...
    def __call__(self, objs: list[Object]):
        return [{"n": 1} for _ in objs]

media.aggregate("totals", by=["n"], sql="SELECT n, count(*) AS c FROM media GROUP BY n")
media.backfill("nightly", schedule=timedelta(hours=12), since=timedelta(days=1))
media.sink("lake", Delta("lake/"))
media.sink("pg", Postgres("WAREHOUSE_DSN", secret="warehouse"))
"""

TWO = """
from datetime import timedelta
from pipeline import Pipeline, Object

first = Pipeline("first", source="up/first/", schedule=timedelta(minutes=10), access="api")
second = Pipeline("second", source="up/second/", schedule="0 * * * *")

@first.transform
def parse(obj: Object):
    return {"n": 1}

@second.transform(batch_size=8, batch_wait_ms=50)
def parse(objs):
    return [{"n": 1} for _ in objs]
"""


@pytest.fixture(scope="module")
def rich(cloud: Cloud) -> Deployed:
    cloud.modal.secrets["hub"] = {"HUB_TOKEN": "t"}
    cloud.modal.secrets["warehouse"] = {"WAREHOUSE_DSN": "host=db"}
    project = cloud.project(RICH)
    made = subprocess.run(
        [sys.executable, "-m", "modal", "volume", "create", "weights"],
        env=project.env(),
        capture_output=True,
    )
    assert made.returncode == 0, made.stderr
    project.deploy()
    return project


@pytest.fixture(scope="module")
def functions(cloud: Cloud, rich: Deployed) -> dict[str, api_pb2.Function]:
    return cloud.modal.functions(rich.app)


def mounts(function: api_pb2.Function) -> dict[str, tuple[str, bool]]:
    """Key prefix below the pipeline's own -> directory's name, whether it is read-only."""
    found = {}
    for mount in function.cloud_bucket_mounts:
        assert mount.force_path_style
        assert mount.bucket_endpoint_url.startswith("http://127.0.0.1")
        assert mount.credentials_secret_id
        found[mount.key_prefix] = (mount.mount_path.rsplit("/", 1)[-1], mount.read_only)
    return found


def test_the_functions_there_are(functions: dict[str, api_pb2.Function]) -> None:
    control = {
        "tick",
        "sweep",
        "commit",
        "aggregate",
        "publish",
        "maintain",
        "submit",
        "backfill_nightly",
        "hint",
    }
    assert set(functions) == control | {
        "work_words",
        "work_embed.*",
        "work_embed.run",
        "batch_embed.*",
        "batch_embed.run",
    }


def test_schedules(functions: dict[str, api_pb2.Function]) -> None:
    crons = {n: f.schedule.cron for n, f in functions.items() if f.schedule.HasField("cron")}
    assert {n: (cron.cron_string, cron.timezone) for n, cron in crons.items()} == {
        "tick": ("*/5 * * * *", "Europe/Riga"),
        "sweep": ("0 3 * * MON", "Europe/Riga"),
        "maintain": ("47 3 * * *", "UTC"),
    }
    periods = {n: f.schedule.period for n, f in functions.items() if f.schedule.HasField("period")}
    assert {n: p.seconds + 60 * (p.minutes + 60 * p.hours) for n, p in periods.items()} == {
        "backfill_nightly": 43_200
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tick", (1000, 2048, 3600)),
        ("sweep", (1000, 2048, 3600)),
        ("commit", (1000, 2048, 3600)),
        ("aggregate", (1000, 4096, 3600)),
        ("publish", (1000, 4096, 3600)),
        ("maintain", (1000, 2048, 3600)),
        ("submit", (1000, 2048, 3600)),
        ("hint", (250, 512, 60)),
        ("work_words", (500, 512, 250)),
        ("work_embed.run", (1000, 2048, 750)),
    ],
)
def test_machines(
    functions: dict[str, api_pb2.Function], name: str, expected: tuple[int, int, int]
) -> None:
    """Thousandths of a core, MiB, seconds: an attempt's 30, one call's limit, and two minutes for a
    start.
    """
    found = functions[name]
    assert (found.resources.milli_cpu, found.resources.memory_mb, found.timeout_secs) == expected


def test_gpus_in_order_of_preference(cloud: Cloud, rich: Deployed) -> None:
    assert cloud.modal.gpus(rich.app, "work_embed.run") == ["L4:1", "A10:2"]
    assert cloud.modal.gpus(rich.app, "work_words") == []


def test_containers(functions: dict[str, api_pb2.Function]) -> None:
    words = functions["work_words"]
    scale = words.autoscaler_settings
    assert (scale.min_containers, scale.max_containers, scale.scaledown_window) == (1, 7, 30)
    assert list(words.scheduler_placement.regions) == ["eu-west-1", "eu"]
    pools = [
        functions[name].autoscaler_settings.max_containers
        for name in ("work_embed.*", "batch_embed.*")
    ]
    assert pools == [75, 25], "together no more than the transform may have"
    assert {n for n, f in functions.items() if f.autoscaler_settings.max_containers == 1} == {
        "commit",
        "aggregate",
        "publish",
    }
    assert len(functions["publish"].secret_ids) == 1 + len(functions["commit"].secret_ids), (
        "what the database asks for"
    )


def test_retries_are_those_that_were_declared(functions: dict[str, api_pb2.Function]) -> None:
    """Elsewhere the protocol alone repeats: nested retries multiply."""
    assert {n: f.retry_policy.retries for n, f in functions.items() if f.retry_policy.retries} == {
        "work_words": 2
    }


def test_batches(functions: dict[str, api_pb2.Function]) -> None:
    found = {
        n: (f.batch_max_size, f.batch_linger_ms) for n, f in functions.items() if f.batch_max_size
    }
    assert {found.pop(name, (64, 250)) for name in ("batch_embed.*", "batch_embed.run")} == {
        (64, 250)
    }
    assert functions["batch_embed.*"].batch_max_size == 64
    assert found == {"commit": (200, 1000)}, (
        "tasks that fill their batches by themselves do not wait for others"
    )


def test_workers_see_their_part_of_the_bucket_and_hold_no_keys(
    cloud: Cloud, rich: Deployed, functions: dict[str, api_pb2.Function]
) -> None:
    expected = {
        "deep/up/": ("source", True),
        "deep/_tidemill/media/assignments/": ("assignments", True),
        "deep/tables/media/": ("output", False),
        "deep/_tidemill/media/receipts/": ("receipts", False),
    }
    for name in ("work_words", "work_embed.*", "batch_embed.*"):
        assert mounts(functions[name]) == expected
    assert [
        bool(functions[n].secret_ids)
        for n in ("work_words", "tick", "commit", "aggregate", "maintain", "submit")
    ] == [*(False, True, True, True, True, True)]
    assert all(not functions[n].cloud_bucket_mounts for n in ("tick", "commit", "hint"))
    assert not functions["hint"].secret_ids


def test_state_is_loaded_once_and_snapshots_are_taken(
    functions: dict[str, api_pb2.Function],
) -> None:
    embed = functions["work_embed.*"]
    assert embed.is_class
    assert embed.checkpointing_enabled
    assert not functions["work_words"].checkpointing_enabled
    assert [mount.mount_path for mount in embed.volume_mounts] == ["/models"]
    assert len(embed.secret_ids) == 1


def test_images(cloud: Cloud, rich: Deployed) -> None:
    def text(name: str) -> str:
        return "\n".join(cloud.modal.image_commands(rich.app, name))

    words, embed, tick = text("work_words"), text("work_embed.run"), text("tick")
    for image in (words, embed, tick):
        assert all(
            part in image
            for part in ("pyarrow==", "obstore==", "python-dateutil==2.9.0.post0", "libmagic1")
        )
        assert "modal==" not in image, "Modal brings its own"
        assert "AWS_" not in image, "no secret is baked into an image"
    assert "pillow==11.0.0" in embed
    assert "ffmpeg" in embed
    assert "pillow" not in words + tick
    files = cloud.modal.mounted_files(rich.app, "work_words")
    assert any(file.endswith("tidemill_project/flow.py") for file in files)
    assert any(file.endswith("pipeline/plan/planner.py") for file in files)
    assert all(file.endswith(".py") for file in files)


def test_a_file_of_a_package_travels_with_its_package(cloud: Cloud) -> None:
    project = cloud.project(TWO)
    package = project.file.parent / "acme"
    package.mkdir()
    for name, text in (
        ("__init__", ""),
        ("words", "SAID = 1\n"),
        ("flows", project.file.read_text()),
    ):
        (package / f"{name}.py").write_text(text)
    project.file.unlink()
    project.file = package / "flows.py"
    project.deploy()
    files = cloud.modal.mounted_files(project.app, "work_first_parse")
    assert {"flows.py", "words.py", "__init__.py"} <= {
        file.rpartition("tidemill_project/acme/")[2] for file in files
    }
    commands = "\n".join(cloud.modal.image_commands(project.app, "work_first_parse"))
    assert "tidemill_project/acme/flows.py" in commands


def test_two_pipelines_of_one_file(cloud: Cloud) -> None:
    project = cloud.project(TWO)
    project.deploy()
    functions = cloud.modal.functions(project.app)
    assert {n for n in functions if n.endswith("_first")} == {
        "tick_first",
        "commit_first",
        "maintain_first",
        "submit_first",
    }
    assert {"work_first_parse", "work_second_parse", "hint"} <= set(functions)
    assert (
        functions["tick_first"].schedule.period.seconds
        + 60 * functions["tick_first"].schedule.period.minutes
        == 600
    )
    assert not functions["work_first_parse"].cloud_bucket_mounts
    assert functions["work_first_parse"].secret_ids, 'access="api" needs keys'
    assert functions["batch_second_parse"].batch_max_size == 8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("*/5 * * * *", "*/5 * * *"), "a cron string has five fields"),
        (("*/5 * * * *", "0 0 31 2 *"), "schedule='0 0 31 2 *'"),
        (("Europe/Riga", "Europe/Atlantis"), "is no time zone"),
        (('"L4"', '"L5"'), "'L5' is no GPU of Modal's; there is T4, L4"),
        (("A10:2", "A10:5"), "can have 1 to 4"),
        (("timeout_s=100", "timeout_s=90000"), "timeout_s=90000 is not a number between"),
        (("timeout_s=100", "timeout_s=0.5"), "on Modal a call has at least 1 s"),
        (("cpu=0.5", "cpu=0"), "cpu=0 is not a number between"),
        (("memory_mb=512", "memory_mb=1"), "memory_mb=1 is not a number between"),
        (("batch_wait_ms=250", "batch_wait_ms=700000"), "batch_wait_ms=700000"),
        (
            ("retries=2", "retries=2, safe_to_rerun=False"),
            "retries=2 contradicts safe_to_rerun=False",
        ),
        (("timedelta(hours=12)", "timedelta(0)"), "a period has at least 5 seconds"),
        (
            ("min_containers=1", "min_containers=9"),
            "min_containers=9 is more than max_containers=7",
        ),
        (('source="up/"', 'source="up"'), "must be a key prefix that ends with '/'"),
        (('schedule="*/5 * * * *", ', ""), "has no schedule"),
    ],
)
def test_what_modal_would_take_and_never_run_is_refused(
    cloud: Cloud, change: tuple[str, str], said: str
) -> None:
    project = cloud.project(RICH.replace(*change))
    refused = project.deploy("--dry-run", code=2)
    assert said in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert project.environment["TIDEMILL_APP"] not in cloud.modal.apps()


def test_a_secret_that_does_not_exist_is_one_line(cloud: Cloud) -> None:
    cloud.modal.secrets["warehouse"] = {"WAREHOUSE_DSN": "host=db"}
    project = cloud.project(RICH.replace("hub", "nowhere"))
    refused = project.deploy(code=2)
    assert "nowhere" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_dry_run_shows_and_sends_nothing(cloud: Cloud) -> None:
    project = cloud.project(TWO)
    shown: dict[str, Any] = json.loads(project.deploy("--dry-run").stdout)[0]
    assert not shown["deployed"]
    assert "tick_first" in shown["functions"]
    assert project.app not in cloud.modal.apps()
