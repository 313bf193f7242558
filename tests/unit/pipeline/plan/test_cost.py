"""What work costs: prices, estimates, limits, the usage they rest on, and the sizes of tasks that
follow from it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.deploy.workspace_rates import rates_of
from pipeline.model.commit import Settled
from pipeline.model.modal_prices import GPU_USD_PER_S, Rates, split_gpu
from pipeline.model.policy import Policy, deployed_policy
from pipeline.model.receipt import SourceProblem
from pipeline.model.settings import CostLimits, PipelineSettings, Resources, TransformSettings
from pipeline.model.task import Task
from pipeline.plan.cost import Budget, Prices
from pipeline.plan.task_sizes import task_ranges
from pipeline.state.state import State
from pipeline.state.usage import DAYS_KEPT, WINDOW_FILES, Took, Usage, day_of, note
from tests.support.builders import inputs_of, pipeline_settings, task_of

DAY_MS = 86_400_000
CPU_S, GIB_S = 0.0000131, 0.00000222


def transform(name: str = "f", **resources: Any) -> TransformSettings:
    return TransformSettings(
        name=name, version="1", match=("**",), resources=Resources(**resources)
    )


def settings(*transforms: TransformSettings, **limits: float) -> PipelineSettings:
    return pipeline_settings(*transforms or (transform(),), cost=CostLimits(**limits))


def prices(*transforms: TransformSettings, rates: Rates | None = None) -> Prices:
    return Prices(settings(*transforms), deployed_policy(), rates or Rates())


def task(name: str = "f", sizes: tuple[int, ...] = (10, 10), id: str = "t") -> Task:
    keys = [f"up/{i}" for i in range(len(sizes))]
    return task_of(id, inputs_of(*keys, sizes=list(sizes)), transform=name, version="1")


def settled(
    seconds: float, *, slots: float = 0.0, bytes_read: int = 20, deferred: int = 0
) -> Settled:
    problems = [SourceProblem(index=i, status="deferred") for i in range(deferred)]
    return Settled(
        task="t",
        nonce="n",
        rows=[],
        rejected=[],
        problems=problems,
        files=[],
        seconds=seconds,
        bytes_read=bytes_read,
        slots=slots,
    )


# -- prices ----------------------------------------------------------------------------------------


def test_a_container_costs_its_cores_its_memory_and_its_cards() -> None:
    assert Rates().usd_per_s(cpu=2, memory_mb=4096, gpu=()) == pytest.approx(2 * CPU_S + 4 * GIB_S)
    assert Rates().usd_per_s(cpu=2, memory_mb=4096, gpu=("H100:2",)) == pytest.approx(
        2 * CPU_S + 4 * GIB_S + 2 * 0.001097
    )


def test_an_eighth_of_a_core_is_charged_at_least() -> None:
    assert Rates().usd_per_s(cpu=0.01, memory_mb=0, gpu=()) == pytest.approx(0.125 * CPU_S)


def test_of_several_cards_the_dearest_counts() -> None:
    dearest = Rates().usd_per_s(cpu=1, memory_mb=1024, gpu=("B200",))
    assert Rates().usd_per_s(cpu=1, memory_mb=1024, gpu=("T4", "B200", "L4")) == dearest


def test_memory_is_paid_where_none_is_declared() -> None:
    assert prices().usd_per_s(transform()) == pytest.approx(CPU_S + 2 * GIB_S)


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("h100!", ("H100", 1)),
        ("A10G:4", ("A10", 4)),
        ("a100", ("A100-40GB", 1)),
        ("L4:8", ("L4", 8)),
    ],
)
def test_cards_have_other_names(name: str, card: tuple[str, int]) -> None:
    assert split_gpu(name) == card


HOURLY = {
    "cpu_hour_cost": 0.0473,
    "mem_gib_hour_cost": 0.008,
    "cpu_hour_cost_sandbox": 0.1419,
    "gpu_hour_cost_l4": 0.8,
} | {
    f"gpu_hour_cost_{name}": 3.6
    for name in ("t4", "a10g", "l40s", "a100_40gb", "a100_80gb", "rtx6000", "h100", "h200", "b200")
}


def test_modals_rates_become_rates_a_second() -> None:
    rates = rates_of(HOURLY, "acme")
    assert rates.source == "rates of the workspace acme"
    assert rates.usd_per_s(cpu=1, memory_mb=1024, gpu=("L4:2",)) == pytest.approx(
        (0.0473 + 0.008 + 1.6) / 3600
    )
    assert {rates.gpu_usd_per_s[card] for card in GPU_USD_PER_S if card != "L4"} == {0.001}


def test_cards_without_a_rate_are_reckoned_at_their_list_price() -> None:
    rates = rates_of({k: v for k, v in HOURLY.items() if k != "gpu_hour_cost_rtx6000"}, "acme")
    assert rates.source == "rates of the workspace acme (list prices for RTX-PRO-6000)"
    assert rates.gpu_usd_per_s["RTX-PRO-6000"] == GPU_USD_PER_S["RTX-PRO-6000"]


@pytest.mark.parametrize("key", ["cpu_hour_cost", "mem_gib_hour_cost", "gpu_hour_cost_l4"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_rates_that_are_no_prices_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        rates_of({**HOURLY, key: value}, "acme")


def test_rates_without_cores_are_refused() -> None:
    with pytest.raises(ValueError, match="cpu_hour_cost"):
        rates_of({"gpu_hour_cost_l4": 0.8}, "acme")


# -- estimates -------------------------------------------------------------------------------------


def test_an_estimate_rests_on_earlier_files() -> None:
    f = transform(max_containers=4, scaledown_window_s=10)
    e = prices(f).estimate(f, Took(files=1_000, seconds=500), files=600, size_bytes=6_000)
    assert (e.files, e.bytes, e.seconds, e.containers, e.wall_s) == (600, 6_000, 300.0, 4, 75.0)
    assert e.usd == pytest.approx((300 + 4 * 10) * (CPU_S + 2 * GIB_S))
    assert e.basis == "1,000 earlier files"


def test_code_that_never_ran_is_assumed_to_take_time_for_each_file_and_byte() -> None:
    f = transform()
    e = prices(f).estimate(f, Took(), files=10, size_bytes=10 * 20_000_000)
    assert e.seconds == pytest.approx(10 * (0.2 + 1))
    assert e.basis.startswith("assumed: 0.2 s a file and 20 MB/s")


def test_no_files_cost_nothing() -> None:
    f = transform()
    e = prices(f).estimate(f, Took(files=10, seconds=5), files=0, size_bytes=0)
    assert (e.containers, e.seconds, e.wall_s, e.usd) == (0, 0.0, 0.0, 0.0)


def test_files_that_take_no_time_still_need_a_container() -> None:
    f = transform()
    assert prices(f).estimate(f, Took(files=10), files=3, size_bytes=3).containers == 1


def test_containers_are_bounded_by_the_policy_where_the_transform_sets_no_bound() -> None:
    f, took = transform(), Took(files=1, seconds=30)
    assert prices(f).estimate(f, took, files=7, size_bytes=0).containers == 7
    assert (
        prices(f).estimate(f, took, files=10_000, size_bytes=0).containers
        == deployed_policy().containers_max
    )


def test_an_estimate_says_how_full_batches_were() -> None:
    f = transform()
    assert (
        prices(f).estimate(f, Took(files=6, slots=8, seconds=1), files=1, size_bytes=1).fill == 0.75
    )


def test_seconds_of_a_transform_that_is_gone_count_at_the_cheapest_rate() -> None:
    cheap, dear = transform("cheap"), transform("dear", gpu=("H100",))
    p = prices(cheap, dear)
    assert p.spent_usd({"dear": 10, "gone": 5}) == pytest.approx(
        10 * p.usd_per_s(dear) + 5 * p.usd_per_s(cheap)
    )


# -- limits ----------------------------------------------------------------------------------------


def budget(f: TransformSettings, **limits: float) -> Budget:
    p = prices(f)
    return Budget(CostLimits(**limits), replace(p, settings=settings(f)))


def state_of(*, seconds_today: float = 0.0, now_ms: int = 0) -> State:
    """A pipeline whose files took a second each."""
    state = State("p")
    state.usage.by_transform["f"] = Took(files=100, seconds=100)
    if seconds_today:
        state.usage.by_day[day_of(now_ms)] = {"f": seconds_today}
    return state


FILE_USD = CPU_S + 2 * GIB_S


def test_without_limits_any_number_is_affordable() -> None:
    assert budget(transform()).files_affordable(state_of(), transform(), 10, 0) is None


def test_a_run_may_cost_so_much_and_what_it_took_counts() -> None:
    b = budget(transform(), run_usd=10 * FILE_USD)
    assert b.files_affordable(state_of(), transform(), 10, 0) == 10
    b.take(state_of(), transform(), 7, 10)
    assert b.files_affordable(state_of(), transform(), 10, 0) == 3
    b.take(state_of(), transform(), 4, 10)
    assert b.files_affordable(state_of(), transform(), 10, 0) == 0


def test_a_day_may_cost_so_much_and_receipts_and_open_tasks_count() -> None:
    b, now_ms = budget(transform(), day_usd=10 * FILE_USD), 5 * DAY_MS
    state = state_of(seconds_today=4, now_ms=now_ms)
    assert b.files_affordable(state, transform(), 10, now_ms) == 6
    state.tasks["t"] = task(sizes=(10, 10, 10))
    assert b.files_affordable(state, transform(), 10, now_ms) == 3
    assert b.files_affordable(state, transform(), 10, now_ms + DAY_MS) == 7


def test_the_tighter_of_two_limits_holds() -> None:
    f = transform()
    assert (
        budget(f, run_usd=2 * FILE_USD, day_usd=9 * FILE_USD).files_affordable(state_of(), f, 10, 0)
        == 2
    )
    assert (
        budget(f, run_usd=9 * FILE_USD, day_usd=2 * FILE_USD).files_affordable(state_of(), f, 10, 0)
        == 2
    )


def test_a_limit_of_nothing_allows_nothing() -> None:
    assert budget(transform(), run_usd=0).files_affordable(state_of(), transform(), 10, 0) == 0


# -- usage -----------------------------------------------------------------------------------------


def test_receipts_are_summed_by_transform_and_by_day() -> None:
    usage = Usage()
    note(usage, task(), settled(1.0, slots=4, bytes_read=20), DAY_MS - 1)
    note(usage, task("g", sizes=(1,)), settled(2.0), DAY_MS - 1)
    note(usage, task(), settled(3.0, slots=2, bytes_read=30), DAY_MS)
    took = usage.took("f")
    assert (took.files, took.seconds, took.slots, took.bytes) == (4, 4.0, 6, 50)
    assert (took.seconds_per_file, took.fill) == (1.0, 4 / 6)
    assert usage.by_day == {"1970-01-01": {"f": 1.0, "g": 2.0}, "1970-01-02": {"f": 3.0}}


def test_files_that_an_attempt_left_for_later_count_no_time() -> None:
    usage = Usage()
    note(usage, task(sizes=(1, 1, 1, 1)), settled(2.0, deferred=3), 0)
    assert usage.took("f").seconds_per_file == 2.0


def test_nothing_is_known_of_a_transform_that_never_ran() -> None:
    assert (Usage().took("f").seconds_per_file, Usage().took("f").fill) == (None, None)


def test_old_files_count_for_less_and_less() -> None:
    usage = Usage(
        by_transform={"f": Took(files=WINDOW_FILES + 2, seconds=10_001, bytes=400, slots=20)}
    )
    note(usage, task(), settled(1.0, slots=3, bytes_read=20), 0)
    took = usage.took("f")
    assert (took.files, took.seconds, took.bytes, took.slots) == (
        WINDOW_FILES / 2 + 1 + 2,
        5_001.5,
        220,
        13,
    )


def test_newer_files_change_the_mean_within_two_windows() -> None:
    usage = Usage(by_transform={"f": Took(files=WINDOW_FILES, seconds=WINDOW_FILES)})
    for _ in range(2 * WINDOW_FILES // 1_000):
        note(usage, task(sizes=(1,) * 1_000), settled(3_000.0), 0)
    assert usage.took("f").seconds_per_file == pytest.approx(3.0, abs=0.6)
    assert usage.took("f").files <= WINDOW_FILES + 1_000


def test_forty_days_are_kept() -> None:
    usage = Usage()
    for day in range(100):
        note(usage, task(), settled(1.0), day * DAY_MS)
    assert sorted(usage.by_day) == [day_of(day * DAY_MS) for day in range(100 - DAYS_KEPT, 100)]
    assert DAYS_KEPT == 40


# -- sizes of tasks --------------------------------------------------------------------------------

policies = st.builds(
    Policy,
    task_bytes_max=st.integers(1_000, 100_000),
    task_files_max=st.integers(1, 50),
    task_bytes_min=st.integers(0, 10_000),
    task_files_min=st.integers(1, 20),
    file_weight_bytes=st.integers(0, 3_000),
    attempt_budget_s=st.floats(1, 60),
)
sizes_of_objects = st.lists(st.integers(0, 20_000), max_size=200)
seconds = st.one_of(st.none(), st.floats(0, 100))


@given(sizes_of_objects, policies, st.integers(1, 20), st.integers(1, 8), seconds, st.booleans())
def test_tasks_cover_all_objects_in_order_within_bounds(  # noqa: PLR0917
    sizes: list[int],
    policy: Policy,
    workers: int,
    batch: int,
    seconds_per_file: float | None,
    more_to_come: bool,
) -> None:
    ranges = task_ranges(
        sizes,
        policy,
        workers=workers,
        batch=batch,
        seconds_per_file=seconds_per_file,
        more_to_come=more_to_come,
    )
    assert [i for start, end in ranges for i in range(start, end)] == list(range(len(sizes)))
    assert all(start < end for start, end in ranges)
    assert all((end - start) % batch == 0 for start, end in ranges[:-1])
    for start, end in ranges:
        full = end - start - (batch - 1)  # files beside those that fill the last batch
        assert full <= policy.task_files_max
        if seconds_per_file:
            assert full <= max(1, policy.attempt_budget_s / seconds_per_file)
        if full > 1:
            assert (
                sum(sizes[start : start + full]) + full * policy.file_weight_bytes
                <= policy.task_bytes_max
            )


SHRINKS = {
    "by number": Policy(
        task_files_max=100, task_files_min=1, task_bytes_min=10**9, task_bytes_max=10**9
    ),
    "by bytes": Policy(
        task_files_max=10**6,
        task_files_min=10**6,
        task_bytes_min=0,
        task_bytes_max=100_000,
        file_weight_bytes=0,
    ),
}


@pytest.mark.parametrize("bound", SHRINKS)
@given(st.integers(1, 400), st.integers(1, 8))
def test_tasks_shrink_towards_the_end_so_that_workers_finish_together(
    bound: str, files: int, workers: int
) -> None:
    lengths = [
        end - start for start, end in task_ranges([1_000] * files, SHRINKS[bound], workers=workers)
    ]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == min(100, max(1, files // (2 * workers)))
    assert lengths[-1] == 1


def test_while_more_is_to_come_tasks_are_full() -> None:
    policy = Policy(task_files_max=10)
    assert task_ranges([1] * 30, policy, workers=8, more_to_come=True) == [
        (0, 10),
        (10, 20),
        (20, 30),
    ]


def test_tasks_are_as_long_as_an_attempts_time_allows() -> None:
    policy = Policy(attempt_budget_s=30)
    assert task_ranges([1] * 25, policy, workers=1, seconds_per_file=3.0, more_to_come=True) == [
        (0, 10),
        (10, 20),
        (20, 25),
    ]
    assert task_ranges([1] * 2, policy, workers=1, seconds_per_file=99.0, more_to_come=True) == [
        (0, 1),
        (1, 2),
    ]


def test_an_object_larger_than_a_task_is_a_task_of_its_own() -> None:
    policy = Policy(task_bytes_max=100, file_weight_bytes=0)
    assert task_ranges([10, 500, 10], policy, workers=1, more_to_come=True) == [
        (0, 1),
        (1, 2),
        (2, 3),
    ]


def test_a_limit_of_nothing_is_a_limit() -> None:
    """Zero dollars dispatch nothing; only an absent limit is none."""
    from pipeline.declare.pipeline import Pipeline
    from pipeline.deploy.control import deployed_runtime
    from pipeline.executors.none import NoExecutor
    from pipeline.testing.memory_store import MemoryStore

    def budget(**limits: float) -> Any:
        made = Pipeline("p", source="up/", **limits)  # type: ignore[arg-type]
        made.transform(does_nothing)
        return deployed_runtime(made, MemoryStore(), NoExecutor()).budget

    assert budget() is None
    for limits in ({"max_cost_usd": 0}, {"max_cost_usd_per_day": 0}):
        assert budget(**limits).files_affordable(State("p"), transform(), 10, 0) == 0


def does_nothing(obj: object) -> None:
    """A transform that does nothing."""
