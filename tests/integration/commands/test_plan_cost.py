"""What a plan would cost on Modal, at whose rates, and what the limits allow; what
was used today.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.commands.test_doctor import TOKEN, fake_modal, project
from tests.support.helpers import LOGS, Project, lines

LIMITED = LOGS.replace(
    'source="up/"', 'source="up/", max_cost_usd=0.0000175, max_cost_usd_per_day=5'
)
BATCHES = """
    import json
    from pipeline import Pipeline
    logs = Pipeline("logs", source="up/")

    @logs.transform(batch_size=4)
    def parse(objs):
        return [[json.loads(line) for line in obj.lines()] for obj in objs]
"""
RATES = {"cpu_hour_cost": "3600", "mem_gib_hour_cost": "1800", "gpu_hour_cost_sandbox": "9"}
LIST_USD_PER_S = 0.0000131 + 2 * 0.00000222
IDLE_S = 60


def uploaded(tmp_path: Path, source: str = LOGS, files: int = 5, **environment: str) -> Project:
    p = project(tmp_path, source, **environment)
    for i in range(files):
        p.upload(f"{i}.jsonl", lines({"kind": "a", "v": i}))
    return p


def planned(p: Project, *arguments: str) -> dict[str, Any]:
    [plan] = json.loads(p.call("plan", "--json", *arguments).stdout)
    return plan  # type: ignore[no-any-return]


def test_a_local_plan_says_nothing_of_money(tmp_path: Path) -> None:
    p = uploaded(tmp_path)
    assert p.call("plan").stdout.splitlines() == [
        "logs: 5 objects listed, 110 B",
        "  parse: 5 new files, 0 changed, 110 B",
    ]
    plan = planned(p)
    assert plan["routes"] == [{"transform": "parse", "new": 5, "changed": 0, "bytes": 110}]
    assert "cost" not in plan
    assert planned(p, "--engine", "local") == plan


def test_a_plan_for_modal_says_containers_time_and_dollars_for_each_route(tmp_path: Path) -> None:
    p = uploaded(tmp_path)
    plan = planned(p, "--engine", "modal")
    [route] = plan["routes"]
    cost = route["cost"]
    assert (route["new"], cost["containers"], cost["files_allowed"]) == (5, 1, 5)
    assert cost["container_s"] == cost["wall_s"] == pytest.approx(5 * 0.2 + 110 / 20e6)
    assert cost["usd"] == pytest.approx((cost["container_s"] + IDLE_S) * LIST_USD_PER_S)
    assert cost["basis"] == "assumed: 0.2 s a file and 20 MB/s; nothing ran yet"
    total = plan["cost"]
    assert {name: total[name] for name in ("containers", "container_s", "wall_s", "usd")} == {
        name: cost[name] for name in ("containers", "container_s", "wall_s", "usd")
    }
    assert total["rates"] == "list prices of July 2026 (no token that Modal takes)"
    said = p.call("plan", "--engine", "modal").stdout.splitlines()
    work = "1 container, 1.0 container-seconds in about 1.0 s, $0.0011"
    assert said[2:] == [
        f"    {work}; assumed: 0.2 s a file and 20 MB/s; nothing ran yet",
        f"  on Modal: {work}; list prices of July 2026 (no token that Modal takes)",
        "  no cost limit is declared; today's receipts cost $0.0000",
    ]


def test_transforms_side_by_side_are_summed_and_take_the_longest_time(tmp_path: Path) -> None:
    source = (
        LOGS.replace("@logs.transform\n", '@logs.transform(match="0*")\n')
        + '\n@logs.transform(gpu="H100", max_containers=1)\ndef other(obj):\n    return None\n'
    )
    plan = planned(uploaded(tmp_path, source, files=4), "--engine", "modal")
    costs = {route["transform"]: route["cost"] for route in plan["routes"]}
    assert costs.keys() == {"parse", "other"}
    for name in ("containers", "container_s", "usd"):
        assert plan["cost"][name] == pytest.approx(costs["parse"][name] + costs["other"][name])
    assert plan["cost"]["wall_s"] == costs["other"]["wall_s"] > costs["parse"]["wall_s"]
    assert costs["other"]["usd"] > IDLE_S * 0.001097


def test_earlier_files_are_the_basis_once_there_are_some(tmp_path: Path) -> None:
    p = uploaded(tmp_path)
    p.run()
    p.upload("new.jsonl", lines({"kind": "a", "v": 1}))
    plan = planned(p, "--engine", "modal")
    assert plan["routes"][0]["cost"]["basis"] == "5 earlier files"
    assert plan["cost"]["spent_today_usd"] > 0


def test_limits_say_how_many_files_they_allow(tmp_path: Path) -> None:
    # a fifth of a second each: the run's limit is reached after the fourth
    p = uploaded(tmp_path, LIMITED)
    plan = planned(p, "--engine", "modal")["cost"]
    assert (plan["files"], plan["files_allowed"]) == (5, 4)
    assert (plan["max_cost_usd"], plan["max_cost_usd_per_day"]) == (0.0000175, 5)
    said = p.call("plan", "--engine", "modal").stdout.splitlines()[-1]
    assert (
        said == "  max_cost_usd=1.75e-05 and max_cost_usd_per_day=5 allow 4 of 5 files now; today's"
        " receipts cost $0.0000"
    )


def test_a_runs_limit_is_one_for_all_transforms(tmp_path: Path) -> None:
    source = LIMITED.replace("@logs.transform\n", '@logs.transform(match="0*")\n')
    source += "\n@logs.transform\ndef other(obj):\n    return None\n"
    plan = planned(uploaded(tmp_path, source), "--engine", "modal")
    allowed = {route["transform"]: route["cost"]["files_allowed"] for route in plan["routes"]}
    assert allowed == {"parse": 1, "other": 3}
    assert plan["cost"]["files_allowed"] == 4


def test_nothing_to_do_costs_nothing(tmp_path: Path) -> None:
    p = uploaded(tmp_path, files=0)
    assert p.call("plan", "--engine", "modal").stdout.splitlines()[1:3] == [
        "  nothing to do",
        "  no cost limit is declared; today's receipts cost $0.0000",
    ]


def test_the_workspaces_own_rates_are_used_where_modal_says_them(tmp_path: Path) -> None:
    with fake_modal(RATES) as url:
        plan = planned(uploaded(tmp_path, **TOKEN, MODAL_SERVER_URL=url), "--engine", "modal")
    assert plan["cost"]["rates"].startswith("rates of the workspace acme (list prices for T4, ")
    assert plan["cost"]["usd"] == pytest.approx(2.0 * (plan["cost"]["container_s"] + IDLE_S))


@pytest.mark.parametrize("rates", [None, {}, {"cpu_hour_cost": "much"}])
def test_rates_that_modal_refuses_or_garbles_fall_back_to_the_table(
    rates: dict[str, str] | None, tmp_path: Path
) -> None:
    with fake_modal(rates) as url:
        plan = planned(uploaded(tmp_path, **TOKEN, MODAL_SERVER_URL=url), "--engine", "modal")
    assert plan["cost"]["rates"].startswith("list prices of July 2026 (Modal gave no rates: ")
    assert plan["cost"]["usd"] == pytest.approx(
        (plan["cost"]["container_s"] + IDLE_S) * LIST_USD_PER_S
    )


def test_a_modal_that_does_not_answer_leaves_the_list_prices(tmp_path: Path) -> None:
    plan = planned(uploaded(tmp_path, **TOKEN), "--engine", "modal")
    assert plan["cost"]["rates"] == "list prices of July 2026 (Modal does not answer)"


def test_an_engine_that_is_none(tmp_path: Path) -> None:
    done = uploaded(tmp_path).call("plan", "--engine", "lambda", code=2)
    assert done.stderr.count("\n") == 1
    assert "'lambda' is not one of 'local', 'modal'" in done.stderr


# -- status ----------------------------------------------------------------------------------------


def test_status_says_what_was_used_today(tmp_path: Path) -> None:
    p = uploaded(tmp_path, LOGS.replace('source="up/"', 'source="up/", schedule="0 * * * *"'))
    p.run()
    [report] = json.loads(p.call("status", "--json").stdout)
    usage = report["usage"]
    assert usage["seconds_today"] > 0
    assert usage["usd_today"] == pytest.approx(usage["seconds_today"] * LIST_USD_PER_S)
    assert usage["fill"] == {}
    [said] = [line for line in p.call("status").stdout.splitlines() if line.startswith("  today ")]
    assert said.endswith(" on Modal")
    p.write(LOGS)
    [said] = [line for line in p.call("status").stdout.splitlines() if line.startswith("  today ")]
    assert said.endswith(" s of work"), "without a schedule it is not meant for Modal"


def test_status_says_how_full_batches_were(tmp_path: Path) -> None:
    p = uploaded(tmp_path, BATCHES, files=5)
    p.run("--workers", "1")
    [report] = json.loads(p.call("status", "--json").stdout)
    assert report["usage"]["fill"] == {"parse": pytest.approx(5 / 8)}
    assert "; parse: batches 62% full" in p.call("status").stdout


def test_status_of_a_pipeline_that_never_ran_has_no_such_line(tmp_path: Path) -> None:
    p = uploaded(tmp_path, BATCHES)
    assert len(p.call("status").stdout.splitlines()) == 2
    [report] = json.loads(p.call("status", "--json").stdout)
    assert report["usage"] == {"seconds_today": 0, "usd_today": None, "fill": {}}
