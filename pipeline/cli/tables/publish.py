"""`tidemill publish` and what it shares with `rollback`: another generation is live from one commit
to the next.
"""

from __future__ import annotations

from typing import Literal

import click

from pipeline.cli.options import Target, on_bucket, root_runtime, wait
from pipeline.cli.render import as_json
from pipeline.errors import SettingsError
from pipeline.model.commit import Generation, Generations
from pipeline.passes.runner import Pass
from pipeline.runtime.runtime import Runtime
from pipeline.runtime.system import WallClock
from pipeline.state.generations import Change
from pipeline.wording import count, printable


@click.command("publish", epilog="Example:  tidemill publish flows.py --bucket ./bucket")
@on_bucket
@click.option(
    "--force", is_flag=True, help="also where files are missing in it, or failed that have rows now"
)
def publish_command(target: Target, force: bool) -> int:
    """Let readers see the new generation instead of the live one, from one commit to the next.

    `rollback` takes it back.
    """
    root = root_runtime(target, target.only())
    known = wait(_known(root))
    if known.candidate is not None:
        problems = wait(_unready(root, known, known.candidate))
        for problem in problems:
            click.echo(f"{root.settings.name}: {problem}", err=True)
        if problems and not force:
            raise SettingsError(
                f"generation {known.candidate} is not published (--force publishes it as it is)"
            )
    return swapped(target, root, "publish")


def swapped(target: Target, root: Runtime, kind: Literal["publish", "rollback"]) -> int:
    """Commit the change, and say which generation is live now."""
    now = wait(Pass(root.context()).change_generations(Change(kind=kind)))
    live = wait(root.of_generation(now.live).log().load())
    if target.as_json:
        as_json(
            {
                "pipeline": root.settings.name,
                "live": now.live,
                "previous": now.previous,
                "rows": live.totals.rows,
            }
        )
        return 0
    click.echo(
        f"{root.settings.name}: generation {now.live} is live:"
        f" {count(live.totals.sources, 'file')}, {count(live.totals.rows, 'row')} (before:"
        f" generation {now.previous})"
    )
    return 0


async def _known(root: Runtime) -> Generations:
    return (await root.log().load()).generations or Generations(kept=[Generation(number=0)])


async def _unready(root: Runtime, known: Generations, candidate: int) -> list[str]:
    """Why a generation is not ready to be seen: what it lacks, and what failed in it that has rows
    now.
    """
    declared = known.get(candidate)
    if declared is not None and declared.sample is not None:
        return [
            f"generation {candidate} is a sample of {declared.sample:,} files: fill it with "
            " tidemill backfill --new-generation"
        ]
    new = root.of_generation(candidate)
    problems = []
    lacking = await _lacking(new)
    if lacking:
        problems.append(
            f"{count(lacking, 'file')} not processed in generation {candidate} yet: backfill"
            " --new-generation goes on"
        )
    failed = await _newly_failed(new, root.of_generation(known.live))
    if failed:
        problems.append(_failed_text(failed))
    return problems


def _failed_text(keys: list[str]) -> str:
    some = f"{count(len(keys), 'file')} failed in it that have rows now"
    return f"{some}, such as {printable(keys[0])}"


async def _lacking(new: Runtime) -> int:
    """Files that are not processed in it yet."""
    from pipeline.runtime.plan_preview import preview

    plan = await preview(new, WallClock().now_ms())
    return sum(route.new + route.changed for route in plan.routes) + plan.in_progress


async def _newly_failed(new: Runtime, live: Runtime) -> list[str]:
    quarantine = (await new.log().load()).quarantine
    log = live.log()
    state = await log.load()
    await log.look_up(state, list(quarantine))
    entries = {key: state.entry(key) for key in quarantine}
    return sorted(
        key
        for key, entry in entries.items()
        if entry is not None and entry.etag == quarantine[key].etag
    )
