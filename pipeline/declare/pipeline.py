"""What users write: a `Pipeline`, its transforms and its aggregates.

Everything is checked when it is declared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from pipeline.declare.checked_values import strings
from pipeline.declare.declared_names import (
    checked_globs,
    checked_key,
    checked_name,
    checked_prefix,
    refuse_taken,
)
from pipeline.declare.pipeline_options import (
    Access,
    Listing,
    checked_backfill,
    checked_cost,
    checked_deployment,
    checked_file_bytes,
    checked_listing,
    checked_output,
    checked_retention_s,
    require_transforms,
)
from pipeline.declare.prefix_overlaps import refuse_overlap, refuse_sink_overlap
from pipeline.declare.table_options import (
    check_sink,
    checked_check,
    checked_groups,
    checked_mode,
    checked_schema,
    checked_statement,
    named_columns,
    refuse_unknown,
)
from pipeline.declare.transform import Class, OfMany, OfOne, One, Transform, transform_settings
from pipeline.declare.transform_options import (
    SingleOptions,
    TransformOptions,
    checked_priority,
    known_options,
)
from pipeline.errors import SettingsError
from pipeline.model.settings import (
    AggregateSettings,
    BackfillSettings,
    CheckAction,
    CheckSettings,
    CostLimits,
    DeploymentSettings,
    DimensionSettings,
    PipelineSettings,
    Priority,
    SchemaMode,
    SinkTarget,
    TransformSettings,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.tables.table import Table


class Pipeline:
    """Objects below `source` become rows of the table `name`, by the transforms declared on it.

    name: the table's name in SQL: a lower-case letter, then letters, digits and `_`.
    source: a key prefix that ends with `/` (or "" for the whole bucket, if `output` allows it), or
        another pipeline: then each source of its table is an object (`Object.table()`, `.rows()`).

    What is read:

    include: globs over the rest of the key, where `*` stays within one path part and `**/` spans
        any number. Default: everything.
    exclude: globs of what is left out. Default: nothing.
    listing: what a watching run, or the ticks between two sweeps, list. "auto": from the last key
        on where keys were seen to grow (dates, sequence numbers) and there are many, else all;
        "growing": always from the last key on; "whole": always all. Default: "auto".
    priority: what goes first where not all can go at once: "newest", "oldest", or a list of
        prefixes (of the key after `source`). Default: "key", the order of the listing.

    The table:

    output: the key prefix that Parquet goes below. Default: `tables/<name>/`.
    partition_by: columns for hive partitions. Default: none.
    order_by: columns by which compaction sorts the rows of a file: those that filters name.
        Default: none.
    file_mb: the size of file, in MiB, that compaction aims at. Default: 128.
    schema: a `pyarrow.Schema`. Default: columns are learned from the first rows.
    schema_mode: what files may do to the columns. "evolve": add new ones; "freeze": a file that
        brings one, or another type, is set aside; "rescue": what does not fit goes into the column
        `_rescued`. Default: "evolve".
    widen: what happens where a later file brings another type. "float": a column of integers may
        become one of floats or decimals while every integer is exact there; "none": it stays one
        of integers; "string": anything may become text. A file that does not fit is set aside.
        Default: "float" in tables that evolve.
    retention_days: how long superseded rows stay on disk for readers. Default: 7.
    timezone: where days begin and end, in queries, checks, aggregates and schedules, on any
        machine. Default: "UTC".

    Once it is deployed:

    schedule: when it looks for new objects: five cron fields in `timezone`, or a timedelta.
        Default: never by itself.
    sweep: a schedule of its own for full listings; the ticks of `schedule` then take keys that were
        hinted, or that grew. Default: every tick lists.
    access: how workers reach the bucket: "mount" (they hold no credentials) or "api".
        Default: "mount".
    pip: packages from the package index in every container. Default: none.
    apt: Debian packages in every container. Default: none.
    max_cost_usd: estimated dollars after which a run dispatches nothing more. Default: no limit.
    max_cost_usd_per_day: the same for a day (UTC). Default: no limit.

    Raises SettingsError, with one line, for anything that cannot work.
    """

    name: str

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
        listing: Listing = "auto",
        priority: Literal["key", "newest", "oldest"] | Sequence[str] = "key",
        schedule: str | timedelta | None = None,
        sweep: str | timedelta | None = None,
        timezone: str = "UTC",
        access: Access = "mount",
        pip: Sequence[str] = (),
        apt: Sequence[str] = (),
        max_cost_usd: float | None = None,
        max_cost_usd_per_day: float | None = None,
    ) -> None:
        self.name: str = checked_name("pipeline", name)
        label = f"pipeline {name}"
        self.upstream: Pipeline | None = source if isinstance(source, Pipeline) else None
        """The pipeline whose table this one reads; None: it reads objects of the bucket."""
        self.source: str = (
            source.prefix_of_rows
            if isinstance(source, Pipeline)
            else checked_prefix(name, "source", source)
        )
        self.output: str = checked_output(name, output)
        refuse_overlap(name, self.source, self.output)
        self.include: tuple[str, ...] = checked_globs(name, "include", include)
        self.exclude: tuple[str, ...] = checked_globs(name, "exclude", exclude)
        self.partition_by: tuple[str, ...] = strings(label, "partition_by", partition_by)
        self.order_by: tuple[str, ...] = strings(label, "order_by", order_by)
        self.file_bytes: int = checked_file_bytes(label, file_mb)
        self.schema: Any = checked_schema(name, schema)
        self.schema_mode, self.widen = checked_mode(label, schema_mode, widen)
        refuse_unknown(
            label,
            named_columns((), self.order_by, self.partition_by),
            self.schema,
            self.schema_mode,
        )
        self.retention_s: float = checked_retention_s(label, retention_days)
        self.listing: Listing = checked_listing(
            label, listing, reads_table=self.upstream is not None
        )
        self.priority: Priority = checked_priority(label, priority)
        self.deployment: DeploymentSettings = checked_deployment(
            label,
            schedule=schedule,
            sweep=sweep,
            timezone=timezone,
            access=access,
            pip=pip,
            apt=apt,
        )
        self.cost: CostLimits = checked_cost(label, max_cost_usd, max_cost_usd_per_day)
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
    def transform(self, target: Class, /) -> Class: ...
    @overload
    def transform(self, target: One, /) -> One: ...
    @overload
    def transform(self, /, *, batch_size: int, **options: Unpack[SingleOptions]) -> OfMany: ...
    @overload
    def transform(
        self, /, *, batch_size: None = None, **options: Unpack[SingleOptions]
    ) -> OfOne: ...

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

        def declare(target: Callable[..., object]) -> Callable[..., object]:
            label = f"pipeline {self.name}, transform {getattr(target, '__name__', target)!s}"
            known_options(label, options)
            settings = transform_settings(self.name, label, target, options)
            if any(t.settings.name == settings.name for t in self.transforms):
                raise SettingsError(
                    f"pipeline {self.name} has two transforms named {settings.name}: rename one"
                )
            self.transforms.append(Transform(settings, target))
            return target

        return declare if target is None else declare(target)

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
        refuse_taken(label, name, self._tables())
        groups, statement = checked_groups(label, by), checked_statement(label, sql)
        self.aggregates.append(
            AggregateSettings(
                name=name, by=groups, sql=statement, timezone=self.deployment.timezone
            )
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
        refuse_taken(label, name, [one.name for one in self.checks])
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
        the bucket, known by its ending, or all files below a prefix that ends with `/`. When it
        changes, aggregates whose SQL names it are computed again.
        """
        label = f"pipeline {self.name}, dimension {name}"
        checked_name("dimension", name)
        refuse_taken(label, name, self._tables())
        self.dimensions.append(DimensionSettings(name=name, key=checked_key(label, key)))

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
        refuse_taken(label, name, [one.name for one in self.backfills])
        self.backfills.append(
            checked_backfill(label, name, schedule, since, prefix=prefix, outdated=outdated)
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
        refuse_taken(label, name, self.sinks)
        check_sink(label, target, self.sinks)
        if target.writes is not None:
            refuse_sink_overlap(self.name, name, target.writes, self)
        self.sinks[name] = target

    def _tables(self) -> list[str]:
        tables = [one.name for one in self.dimensions] + [one.name for one in self.aggregates]
        return [self.name, *tables]

    def settings(self) -> PipelineSettings:
        """The parsed declaration. Raises SettingsError if no transform is declared."""
        require_transforms(self.name, self.transforms)
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
        """With a fingerprint, made after the whole file was read: helpers may stand below."""
        settings, name = transform.settings, transform.settings.name
        if not settings.version and name not in self._fingerprints:
            packages = (*self.deployment.pip, *self.deployment.apt)
            self._fingerprints[name] = transform.fingerprint(self.schema, packages)
        return replace(settings, version=settings.version or self._fingerprints[name])
