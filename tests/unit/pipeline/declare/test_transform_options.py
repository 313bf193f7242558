"""Each option of a transform and a deployment lands in the settings, or is refused in one line that
names it and the value.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.declare.transform_options import TransformOptions
from pipeline.errors import SettingsError
from pipeline.model.settings import PipelineSettings, TransformSettings


def function(**options: Any) -> TransformSettings:
    """A function declared with these options."""
    p = Pipeline("p", source="up/")

    @p.transform(**options)
    def f(obj: object) -> None: ...

    return p.settings().transforms[0]


def stateful(**options: Any) -> TransformSettings:
    """A class declared with these options."""
    p = Pipeline("p", source="up/")

    @p.transform(**options)
    class F:
        def __call__(self, obj: object) -> None: ...

    return p.settings().transforms[0]


def deployed(**options: Any) -> PipelineSettings:
    p = Pipeline("p", source="up/", **options)
    p.transform(lambda_free)
    return p.settings()


def lambda_free(obj: object) -> None: ...


def refusal(declare: Any, **options: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        declare(**options)
    text = str(caught.value)
    assert "\n" not in text
    assert "pipeline p" in text
    return text


TRANSFORM = {
    "match": ("*.csv", ("*.csv",)),
    "version": ("7", "7"),
    "timeout_s": (86_400, 86_400),
    "max_attempts": (5, 5),
    "batch_size": (16, 16),
    "batch_wait_ms": (600_000, 600_000),
    "safe_to_rerun": (False, False),
}
RESOURCES = {
    "cpu": (0.125, 0.125),
    "memory_mb": (4096, 4096),
    "gpu": (["H100:8", "a100", "A10G:4"], ("H100:8", "a100", "A10G:4")),
    "retries": (10, 10),
    "min_containers": (2, 2),
    "max_containers": (3, 3),
    "scaledown_window_s": (2, 2),
    "region": ("us-east-1", ("us-east-1",)),
    "volumes": ({"/models": "weights"}, {"/models": "weights"}),
    "pip": (["torch==2.6"], ("torch==2.6",)),
    "apt": (["ffmpeg"], ("ffmpeg",)),
    "secrets": (["hf-token", "b.c"], ("hf-token", "b.c")),
    "memory_snapshot": (True, True),
}


def test_every_option_is_tested_here() -> None:
    assert {**TRANSFORM, **RESOURCES}.keys() == TransformOptions.__annotations__.keys()


@pytest.mark.parametrize("name", TRANSFORM)
def test_options_of_the_protocol_land_in_the_settings(name: str) -> None:
    value, stored = TRANSFORM[name]
    needed = {"batch_size": 4} if name == "batch_wait_ms" else {}
    assert getattr(function(**needed, **{name: value}), name) == stored
    assert getattr(function(), name) != stored


@pytest.mark.parametrize("name", RESOURCES)
def test_options_about_containers_land_in_the_settings(name: str) -> None:
    value, stored = RESOURCES[name]
    assert getattr(stateful(**{name: value}).resources, name) == stored
    assert getattr(stateful().resources, name) != stored


def test_a_transform_that_may_not_run_twice_is_attempted_once() -> None:
    assert function(safe_to_rerun=False).max_attempts == 1


REFUSED: list[tuple[str, object]] = [
    *(("timeout_s", value) for value in (0, -1, 0.09, 86_400.1, "60", True, None, float("nan"))),
    *(("cpu", value) for value in (0, 0.1, 64.5, "1", float("inf"))),
    *(("memory_mb", value) for value in (0, 127, 400_000, "1g", True, 512.5)),
    *(
        ("gpu", value)
        for value in (
            "V100",
            "H100:0",
            "H100:9",
            "A10:5",
            "H100:x",
            "H100:",
            "H100:²",
            "H100:٣",
            "H100:-1",
            "",
        )
    ),
    *(("gpu", value) for value in (["L4"] * 9, ["L4", "V100"], 1, None)),
    *(("retries", value) for value in (-1, 11, 1.5, "1")),
    *(("min_containers", value) for value in (-1, 0.5, 10_001)),
    *(("max_containers", value) for value in (0, 2.5, "many")),
    *(("scaledown_window_s", value) for value in (1, 1_201, 2.5)),
    *(("region", value) for value in ("US", "us east", "", ["us", "-"])),
    *(("pip", value) for value in ("torch", [""], [1], None)),
    *(("apt", value) for value in ("ffmpeg", [None])),
    *(("secrets", value) for value in ("my secret", [""], "-x", "a" * 65)),
    *(("memory_snapshot", value) for value in (1, "yes", None)),
    *(("safe_to_rerun", value) for value in (0, "no")),
    *(("max_attempts", value) for value in (0, 101)),
    *(("batch_size", value) for value in (0, -4, 2.5, "8", 100_001)),
]


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=lambda v: repr(v)[:20])
def test_wrong_values_are_refused_by_name_and_value(name: str, value: object) -> None:
    text = refusal(stateful, **{name: value})
    assert f"{name}=" in text
    said = [value, *value] if isinstance(value, list) else [value]
    assert any(repr(v) in text for v in said) or "names 9 cards" in text


@pytest.mark.parametrize(
    "path", ["models", "/", "/root", "/tmp", "/a/", "/a/../b", "//a", "/./a", "", 3]
)
def test_volumes_are_mounted_at_plain_absolute_paths(path: object) -> None:
    assert repr(path) in refusal(function, volumes={path: "weights"})


@pytest.mark.parametrize("name", ["", "my weights", "-w", "a" * 65, None])
def test_volumes_have_names_that_modal_takes(name: object) -> None:
    assert f"volumes: {name!r}" in refusal(function, volumes={"/models": name})


def test_volumes_are_a_mapping() -> None:
    assert "volumes=['/models'] must map" in refusal(function, volumes=["/models"])


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"min_containers": 3, "max_containers": 2}, "min_containers=3 is more than max_containers=2"),
    ({"retries": 2, "safe_to_rerun": False}, "retries=2 contradicts safe_to_rerun=False"),
    ({"max_attempts": 2, "safe_to_rerun": False}, "max_attempts=2 contradicts safe_to_rerun=False"),
    ({"batch_wait_ms": 100}, "batch_wait_ms needs a batch_size"),
    (
        {"batch_wait_ms": 600_001, "batch_size": 4},
        "batch_wait_ms=600001 is not a number between 0 and 600000",
    ),
    ({"batch_wait_ms": -1, "batch_size": 4}, "batch_wait_ms=-1"),
    ({"batch_wait_ms": 0.5, "batch_size": 4}, "batch_wait_ms=0.5 is not a whole number"),
    ({"memory_snapshot": True}, "memory_snapshot=True is for classes"),
    ({"gpus": "L4"}, "there is no option 'gpus'; did you mean 'gpu'?"),
    ({"timeout": 5}, "there is no option 'timeout'; did you mean 'timeout_s'?"),
]


@pytest.mark.parametrize(
    ("options", "words"), CONTRADICTIONS, ids=lambda v: "+".join(v) if isinstance(v, dict) else ""
)
def test_options_that_contradict_each_other_or_do_not_exist(
    options: dict[str, Any], words: str
) -> None:
    assert words in refusal(function, **options)


def test_equal_bounds_of_containers_are_fine() -> None:
    resources = function(min_containers=2, max_containers=2).resources
    assert (resources.min_containers, resources.max_containers) == (2, 2)


# -- the deployment --------------------------------------------------------------------------------


def test_options_of_a_deployment_land_in_the_settings() -> None:
    settings = deployed(
        schedule="*/5 * * * *",
        sweep=timedelta(hours=6),
        timezone="Europe/Riga",
        access="api",
        pip=["pillow"],
        apt=["ffmpeg"],
        max_cost_usd=1.5,
        max_cost_usd_per_day=0,
    )
    d = settings.deployment
    assert (d.schedule, d.sweep, d.timezone, d.access) == (
        "*/5 * * * *",
        21_600.0,
        "Europe/Riga",
        "api",
    )
    assert (d.pip, d.apt) == (("pillow",), ("ffmpeg",))
    assert (settings.cost.run_usd, settings.cost.day_usd) == (1.5, 0)


def test_a_pipeline_without_options_has_no_schedule_and_no_limit() -> None:
    settings = deployed()
    assert (settings.deployment.schedule, settings.deployment.timezone) == (None, "UTC")
    assert (settings.cost.run_usd, settings.cost.day_usd) == (None, None)


@pytest.mark.parametrize(
    "schedule", ["0 9 * * 1-5", "0 0 29 2 *", "15,45 */2 1 jan MON", "0 0 L * *"]
)
def test_cron_strings_that_come(schedule: str) -> None:
    assert deployed(schedule=schedule).deployment.schedule == schedule


@pytest.mark.parametrize(
    "schedule",
    [
        *(
            "",
            "daily",
            "@daily",
            "* * * *",
            "* * * * * *",
            "61 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
        ),
        *("0 0 31 2 *", "0 0 30 2 *", "0 0 31 4 *", "*/0 * * * *", "a * * * *", "5-1 * * * *"),
        *(300, True, timedelta(0), timedelta(seconds=4.9), timedelta(days=-1), ["* * * * *"]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("name", ["schedule", "sweep"])
def test_schedules_that_never_come_or_are_none(name: str, schedule: object) -> None:
    assert f"{name}={schedule!r}" in refusal(deployed, **{name: schedule})


@pytest.mark.parametrize(
    "zone", ["", "Mars/Base", "../etc/passwd", "/etc/passwd", "Europe", None, 3, "UTC\0"], ids=repr
)
def test_time_zones_that_are_none(zone: object) -> None:
    assert f"timezone={zone!r}" in refusal(deployed, timezone=zone)


WRONG = [
    ("access", "both"),
    ("access", None),
    ("pip", "pillow"),
    ("apt", [""]),
    ("max_cost_usd", -1),
    ("max_cost_usd_per_day", "5"),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=repr)
def test_wrong_values_of_a_deployment(name: str, value: object) -> None:
    assert f"{name}={value!r}" in refusal(deployed, **{name: value})
