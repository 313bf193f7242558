"""Upkeep: what a table and its log need now and then, besides new rows."""

from __future__ import annotations

from pipeline.commit_log import vacuum as maintenance
from pipeline.commit_log.checkpoints import unnamed_runs, what_is_kept
from pipeline.commit_log.vacuum import Vacuumed
from pipeline.passes.compaction import Compactor, Merged, Wanted
from pipeline.passes.runner import Pass
from pipeline.plan.evidence import Evidence


async def keep_tidy(running: Pass) -> None:
    """After a pass that committed: a checkpoint, so that the next process starts fast, and now and
    then a vacuum.
    """
    if not running.report.commits:
        return
    every, sequence = running.context.policy.vacuum_every, running.state.sequence
    if sequence // every != (sequence - running.report.commits) // every:
        await compact(running)
        await vacuum(running)
    else:
        await running.checkpoint()


async def compact(running: Pass, *, few: bool = False, purge: bool = False) -> Merged:
    """Merge small outputs into files of the declared size (see `compaction.Wanted`).

    Raises SettingsError for a wrong order_by.
    """
    if running.context.rewriter is None:
        return Merged()
    return await Compactor(
        running, Wanted(target_bytes=running.settings.file_bytes, few=few, purge=purge)
    ).run()


async def vacuum(running: Pass, *, dry_run: bool = False) -> Vacuumed:
    """Delete what nobody needs any more, and commit that it is gone."""
    await running.open()
    log, state, settings = running.log, running.state, running.settings
    kept = await what_is_kept(log, state, settings.retention_s)
    unnamed = [] if dry_run else await unnamed_runs(log, state, kept)
    commit = await running.commit(Evidence(base=state.sequence, runs_work=False, collected=unnamed))
    collected = commit.collected if commit is not None else []
    done = await maintenance.vacuum(
        log,
        settings,
        running.state,
        running.context.ids,
        kept=kept,
        collected=collected,
        dry_run=dry_run,
    )
    if done.outputs and not dry_run:
        await running.commit(
            Evidence(base=running.state.sequence, runs_work=False, vacuumed=done.outputs)
        )
    return done
