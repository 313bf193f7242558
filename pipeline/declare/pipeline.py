"""What users write: a `Pipeline`, its transforms and its aggregates.

Everything is checked when it is declared.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, cast, overload

from pipeline.declare.code_version import fingerprint
from pipeline.declare.declared_names import (
    checked_dollars,
    checked_globs,
    checked_name,
    checked_prefix,
    quoted_name,
)
from pipeline.declare.prefix_overlaps import refuse_overlap, refuse_sink_overlap
from pipeline.declare.schedules import checked_schedule, checked_timezone
from pipeline.declare.table_options import (
    checked_check,
    checked_mode,
    checked_schema,
    named_columns,
    refuse_unknown,
)
from pipeline.declare.transform_options import (
    TIMEOUT_MAX_S,
    TransformOptions,
    between,
    boolean,
    check_target,
    checked_batch_wait,
    checked_priority,
    checked_resources,
    known_options,
    optional,
    strings,
)
from pipeline.errors import SettingsError
from pipeline.model.settings import (
    DAY_S,
    AggregateSettings,
    BackfillSettings,
    CheckAction,
    CheckSettings,
    CostLimits,
    DeploymentSettings,
    DimensionSettings,
    PipelineSettings,
    SchemaMode,
    SinkTarget,
    TransformSettings,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.tables.table import Table

F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class Transform:
    """A declared function or class, not called yet."""

    settings: TransformSettings
    target: Callable[..., object]

    def load(
        self, settled: Callable[[object], object] = lambda result: result
    ) -> Callable[..., object]:
        """The callable for this process: for a class, an instance whose `load` has run once.
        settled: sees to what is async.
        """
        if not inspect.isclass(self.target):
            return self.target
        instance: Any = self.target()
        if hasattr(instance, "load"):
            settled(instance.load())
        return cast("Callable[..., object]", instance)


class Pipeline:
    """Objects below `source` become rows of the table `name`, by the transforms declared on it.

    source: a key prefix that ends with `/` (or "" for the whole bucket, if `output` allows it); or
    another pipeline: then each source of that one's table is an object with its rows
    (`Object.table()`, `Object.rows()`). include, exclude: globs over the rest of the key (`*` stays
    within one path part, `**/` spans any number). output: where Parquet goes, by default
    `tables/<name>/`. partition_by: columns for hive partitions. order_by, file_mb: by which columns
    compaction sorts the rows of a file (those that filters name), and the size of file it aims at.
    schema: column types; without it they are learned from the first rows. widen: what happens when
    a later file brings another type: by default ("float") a column of integers may become one of
    floats or decimals while every integer is exact there, "none" leaves it one of integers,
    "string" lets anything become text; a file that does not fit is quarantined. schema_mode: what
    files may do to the columns: "evolve" adds new ones, "freeze" quarantines a file that brings one
    or another type, "rescue" puts what does not fit into the column `_rescued`. retention_days: how
    long superseded rows stay on disk for readers. listing: what a watching run, or the ticks
    between two sweeps, list: "auto" from the last key on where keys were seen to grow (dates,
    sequence numbers) and there are many, else all; "growing" always from the last key on; "whole"
    always all. priority: what goes first where not all can go at once: "newest", "oldest", or a
    list of prefixes (of the key after `source`); by default the listing's own order. timezone:
    where days begin and end, in queries, checks and aggregates as for the schedule, on any machine.

    For a deployed pipeline: schedule: when it looks for new objects, as five cron fields in
    `timezone` or a timedelta. sweep: a schedule of its own for full listings; the ticks of
    `schedule` then take keys that were hinted, or that grew. access: how workers reach the bucket,
    through "mount" (they hold no credentials) or by "api". pip, apt: packages in every container.
    max_cost_usd, max_cost_usd_per_day: estimated dollars after which a run, or a day (UTC),
    dispatches nothing more.

    Raises SettingsError, with one line, for anything that cannot work.
    """

    def __init__(
        self,
        name: str,
        *,
        source: str | Pipeline,
        include: Sequence[str] = ("**",),
        exclude: Sequence[str] = (),
        output: str | None = None,
        partition_by: Sequence[str] = (),
        order_by: Sequence[str] = (),
        file_mb: float = 128,
        schema: pa.Schema | None = None,
        widen: Literal["none", "float", "string"] | None = None,
        schema_mode: SchemaMode = "evolve",
        retention_days: float = 7.0,
        listing: Literal["auto", "whole", "growing"] = "auto",
        priority: Literal["key", "newest", "oldest"] | Sequence[str] = "key",
        schedule: str | timedelta | None = None,
        sweep: str | timedelta | None = None,
        timezone: str = "UTC",
        access: Literal["mount", "api"] = "mount",
        pip: Sequence[str] = (),
        apt: Sequence[str] = (),
        max_cost_usd: float | None = None,
        max_cost_usd_per_day: float | None = None,
    ) -> None:
        self.name = checked_name("pipeline", name)
        self.upstream = source if isinstance(source, Pipeline) else None
        """The pipeline whose table this one reads; None: it reads objects of the bucket."""
        self.source = (
            source.prefix_of_rows
            if isinstance(source, Pipeline)
            else checked_prefix(name, "source", source)
        )
        self.output = checked_prefix(
            name, "output", f"tables/{name}/" if output is None else output
        )
        refuse_overlap(name, self.source, self.output)
        self.include = checked_globs(name, "include", include)
        self.exclude = checked_globs(name, "exclude", exclude)
        self.partition_by = strings(f"pipeline {name}", "partition_by", partition_by)
        self.order_by = strings(f"pipeline {name}", "order_by", order_by)
        self.file_bytes = int(between(f"pipeline {name}", "file_mb", file_mb, 0.001, 4096) * 2**20)
        self.schema = checked_schema(name, schema)
        self.schema_mode, self.widen = checked_mode(f"pipeline {name}", schema_mode, widen)
        refuse_unknown(
            f"pipeline {name}",
            named_columns((), self.order_by, self.partition_by),
            self.schema,
            self.schema_mode,
        )
        if not isinstance(retention_days, int | float) or not 0 <= retention_days <= 3650:
            raise SettingsError(
                f"pipeline {name}: retention_days={retention_days!r} is not between 0 and 3650"
            )
        self.retention_s = retention_days * DAY_S
        label = f"pipeline {name}"
        if listing not in ("auto", "whole", "growing"):
            raise SettingsError(
                f'{label}: listing={listing!r} is not one of "auto", "whole", "growing"'
            )
        self.listing: Literal["auto", "whole", "growing"] = (
            listing if self.upstream is None else "whole"
        )
        self.priority = checked_priority(label, priority)
        if access not in ("mount", "api"):
            raise SettingsError(f'{label}: access={access!r} is neither "mount" nor "api"')
        self.deployment = DeploymentSettings(
            schedule=checked_schedule(f"{label}: schedule", schedule),
            sweep=checked_schedule(f"{label}: sweep", sweep),
            timezone=checked_timezone(f"{label}: timezone", timezone),
            access=access,
            pip=strings(label, "pip", pip),
            apt=strings(label, "apt", apt),
        )
        self.cost = CostLimits(
            run_usd=checked_dollars(label, "max_cost_usd", max_cost_usd),
            day_usd=checked_dollars(label, "max_cost_usd_per_day", max_cost_usd_per_day),
        )
        self.transforms: list[Transform] = []
        self.aggregates: list[AggregateSettings] = []
        self.backfills: list[BackfillSettings] = []
        self._fingerprints: dict[str, str] = {}
        self.dimensions: list[DimensionSettings] = []
        self.checks: list[CheckSettings] = []
        self.sinks: dict[str, SinkTarget] = {}

    def __repr__(self) -> str:
        return f"Pipeline({self.name!r}, source={self.source!r})"

    @property
    def prefix_of_rows(self) -> str:
        """What keys begin with in a pipeline that reads this one's table; then comes the key of the
        source that the rows are of.
        """
        return f"{self.name}:"

    @overload
    def transform(self, target: F, /) -> F: ...

    @overload
    def transform(self, /, **options: Unpack[TransformOptions]) -> Callable[[F], F]: ...

    def transform(
        self, target: Callable[..., object] | None = None, /, **options: Unpack[TransformOptions]
    ) -> Any:
        """Declare the code for the objects that match.

        The first transform whose `match` fits takes an object.

        The target is a function of one `Object`, or a class with `__call__(self, obj)` and
        optionally `load(self)`, which runs once in each worker. With `batch_size` it takes a list
        of objects and returns a list of results of the same length. All may be `async`, generators
        too: each worker has an event loop for them. A result is an Arrow table or record batches,
        an iterable of dicts or dataclasses, a pandas DataFrame, or None. The options are those of
        `TransformOptions`.
        """

        def declare(target: F) -> F:
            label = f"pipeline {self.name}, transform {getattr(target, '__name__', target)!s}"
            known_options(label, options)
            settings = self._transform_settings(label, target, options)
            if any(t.settings.name == settings.name for t in self.transforms):
                raise SettingsError(
                    f"pipeline {self.name} has two transforms named {settings.name}: rename one"
                )
            self.transforms.append(Transform(settings, target))
            return target

        return declare if target is None else declare(target)

    def _transform_settings(
        self, label: str, target: Callable[..., object], options: TransformOptions
    ) -> TransformSettings:
        batch_size = options.get("batch_size")
        check_target(label, target, batch_size)
        match, version = options.get("match", "**"), options.get("version")
        batch_wait_ms = checked_batch_wait(label, options)
        safe = boolean(label, "safe_to_rerun", options.get("safe_to_rerun", True))
        attempts = int(
            between(label, "max_attempts", options.get("max_attempts", 3 if safe else 1), 1, 100)
        )
        if not safe and attempts > 1:
            raise SettingsError(
                f"{label}: max_attempts={attempts} contradicts safe_to_rerun=False: leave one of"
                " them out"
            )
        return TransformSettings(
            name=checked_name("transform", target.__name__.lower()),
            version=version if version is not None else "",  # see `settings`
            match=checked_globs(self.name, "match", [match] if isinstance(match, str) else match),
            timeout_s=between(
                label, "timeout_s", options.get("timeout_s", 600.0), 0.1, TIMEOUT_MAX_S
            ),
            max_attempts=attempts,
            batch_size=optional(label, "batch_size", batch_size, 1, 100_000),
            batch_wait_ms=batch_wait_ms,
            safe_to_rerun=safe,
            keeps_state=inspect.isclass(target),
            resources=checked_resources(label, options, is_class=inspect.isclass(target)),
        )

    def aggregate(
        self, name: str, *, by: str | Sequence[str] | Mapping[str, str], sql: str
    ) -> None:
        """Declare a table that is kept up to date with the pipeline's rows.

        sql: one SELECT over the table named like the pipeline, over dimensions, and over aggregates
        that were declared before. by: the columns of its result that tell its groups apart, each
        also a column of the pipeline's rows, or a mapping from the result's column to an SQL
        expression over the rows. Only groups that new, changed or deleted files touch are computed
        again.
        """
        label = f"pipeline {self.name}, aggregate {name}"
        checked_name("aggregate", name)
        if (
            name == self.name
            or name in (d.name for d in self.dimensions)
            or any(a.name == name for a in self.aggregates)
        ):
            raise SettingsError(f"{label}: the name is taken")
        groups = (
            dict(by)
            if isinstance(by, Mapping)
            else {c: quoted_name(c) for c in ([by] if isinstance(by, str) else by)}
        )
        if not groups or not all(
            isinstance(k, str) and isinstance(v, str) for k, v in groups.items()
        ):
            raise SettingsError(f'{label}: by= needs at least one column, for example by=["month"]')
        if not isinstance(sql, str) or not sql.strip():
            raise SettingsError(f"{label}: sql= is empty")
        self.aggregates.append(
            AggregateSettings(name=name, by=groups, sql=sql, timezone=self.deployment.timezone)
        )

    def check(self, name: str, sql: str, *, action: CheckAction = "quarantine") -> None:
        """Declare a condition that every row has to meet, in SQL over its columns: `amount >= 0`,
        `shop IS NOT NULL`.

        action: what happens to a row for which it is false, before anything is committed:
        "quarantine" sets its file aside, "reject" puts the row into `<table>__rejected`, "warn"
        counts it. A row for which it is NULL meets it, as SQL has it.
        """
        label = f"pipeline {self.name}, check {name}"
        checked_name("check", name)
        if any(c.name == name for c in self.checks):
            raise SettingsError(f"{label}: the name is taken")
        zone, declared = self.deployment.timezone, self.schema
        checked = checked_check(
            label, name, sql, action, table=self.name, timezone=zone, declared=declared
        )
        refuse_unknown(
            f"pipeline {self.name}", named_columns([checked]), self.schema, self.schema_mode
        )
        self.checks.append(checked)

    def dimension(self, name: str, key: str) -> None:
        """Declare a table `name` for aggregates and queries to join: a CSV, JSON or Parquet file of
        the bucket, told by its ending, or all files below a prefix that ends with `/`. When it
        changes, aggregates whose SQL names it are computed again.
        """
        label = f"pipeline {self.name}, dimension {name}"
        checked_name("dimension", name)
        if (
            name == self.name
            or name in (d.name for d in self.dimensions)
            or name in (a.name for a in self.aggregates)
        ):
            raise SettingsError(f"{label}: the name is taken")
        if not isinstance(key, str) or not key or key.startswith("/"):
            raise SettingsError(
                f"{label}: {key!r} is no key, such as reference/shops.csv, and no prefix, such as"
                " reference/shops/"
            )
        self.dimensions.append(DimensionSettings(name=name, key=key))

    def backfill(
        self,
        name: str,
        *,
        schedule: str | timedelta,
        since: timedelta | None = None,
        prefix: str = "",
        outdated: bool = False,
    ) -> None:
        """Declare that objects which were processed before are processed again, on a schedule, once
        the pipeline is deployed.

        since: those that changed at most so long ago; by default all. prefix: of the key, without
        the source prefix. outdated: only those whose rows were made by another version of the code.
        Until the new rows are committed the old ones count.
        """
        label = f"pipeline {self.name}, backfill {name}"
        checked_name("backfill", name)
        if any(b.name == name for b in self.backfills):
            raise SettingsError(f"{label}: the name is taken")
        checked = checked_schedule(f"{label}: schedule", schedule)
        if checked is None:
            raise SettingsError(f"{label}: schedule= is missing")
        seconds = (
            None
            if since is None
            else between(label, "since", since.total_seconds(), 1, 3650 * DAY_S)
        )
        self.backfills.append(
            BackfillSettings(
                name=name, schedule=checked, prefix=prefix, since_s=seconds, outdated=outdated
            )
        )

    def table(
        self,
        bucket: str | None = None,
        *,
        at: int | str | datetime | None = None,
        endpoint_url: str | None = None,
        region: str | None = None,
    ) -> Table:
        """The committed rows, for reading in this process: a DuckDB relation, Arrow batches, pandas
        or Polars frames.

        bucket: as for the commands, by default TIDEMILL_BUCKET's. at: a commit (of one of several
        generations as "g1:7") or a time, by default the newest commit. Close it, or use `with`.
        """
        from pipeline.tables.table import open_table

        return open_table(self, bucket, at=at, endpoint_url=endpoint_url, region=region)

    def sink(self, name: str, target: SinkTarget) -> None:
        """Declare a copy of the tables in another system, which follows every commit: one of those
        in `sinks`.

        `tidemill run` brings it up to date, as does the deployed app; `tidemill sinks` shows what
        it holds.
        """
        label = f"pipeline {self.name}, sink {name}"
        checked_name("sink", name)
        if name in self.sinks:
            raise SettingsError(f"{label}: the name is taken")
        if isinstance(target, type) or not isinstance(target, SinkTarget):
            raise SettingsError(
                f'{label}: {target!r} is no sink; use one of `sinks`, like Delta("lake/")'
            )
        if target in self.sinks.values():
            raise SettingsError(f"{label}: another sink of this pipeline has the same place")
        if target.writes is not None:
            refuse_sink_overlap(self.name, name, target.writes, self)
        self.sinks[name] = target

    def settings(self) -> PipelineSettings:
        """The parsed declaration. Raises SettingsError if no transform is declared."""
        if not self.transforms:
            raise SettingsError(
                f"pipeline {self.name} has no transform: decorate a function with"
                f" @{self.name}.transform"
            )
        return PipelineSettings(
            name=self.name,
            source=self.source,
            include=self.include,
            exclude=self.exclude,
            output=self.output,
            partition_by=self.partition_by,
            order_by=self.order_by,
            file_bytes=self.file_bytes,
            widen=self.widen,
            listing=self.listing,
            transforms=tuple(self._versioned(t) for t in self.transforms),
            aggregates=tuple(self.aggregates),
            dimensions=tuple(self.dimensions),
            retention_s=self.retention_s,
            deployment=replace(self.deployment, backfills=tuple(self.backfills)),
            cost=self.cost,
            priority=self.priority,
            schema_mode=self.schema_mode,
            checks=tuple(self.checks),
        )

    def _versioned(self, transform: Transform) -> TransformSettings:
        """With a fingerprint where no version is declared: not before the whole file was read,
        since helpers may stand below.
        """
        settings, name = transform.settings, transform.settings.name
        if settings.version or name in self._fingerprints:
            return replace(settings, version=settings.version or self._fingerprints[name])
        shape = [str(settings.batch_size)]
        shape += [f"schema={self.schema}"] if self.schema is not None else []
        packages = [
            *self.deployment.pip,
            *self.deployment.apt,
            *settings.resources.pip,
            *settings.resources.apt,
        ]
        shape += [f"packages={sorted(packages)}"] if packages else []
        self._fingerprints[name] = fingerprint(transform.target, shape)
        return replace(settings, version=self._fingerprints[name])
