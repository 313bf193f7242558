"""What a machine, an account and a bucket need before a pipeline runs or is deployed: each check
says what it found, and on failure how to fix it. Checks of values are pure; those that ask Modal
wait a few seconds, and take silence for a warning.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import islice
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pipeline.commit_log.store_probe import ALTERNATIVE, ORDERED, UNORDERED, Probed, probe
from pipeline.declare.load_file import load_pipelines
from pipeline.declare.pipeline import Pipeline
from pipeline.declare.prefix_overlaps import refuse_overlap
from pipeline.deploy.machine_checks import Check, installed_version
from pipeline.deploy.workspace_rates import ANSWER_TIMEOUT_S, imported_modal, opened_workspace
from pipeline.errors import (
    SettingsError,
    StoreDenied,
    StoreError,
    StoreUnavailable,
    StoreUnsafe,
    TidemillError,
)
from pipeline.model import keys
from pipeline.ports import Clock, Ids, Store
from pipeline.runtime.bucket import Bucket

SKEW_MAX_S = 60.0
FIRES_SHOWN = 3


def failed(checks: Iterable[Check]) -> bool:
    """Whether anything must be fixed."""
    return any(check.status == "FAIL" for check in checks)


def unsafe(checks: Iterable[Check]) -> bool:
    """Whether the store is none to commit to."""
    return any(check.status == "FAIL" and check.fix == ALTERNATIVE for check in checks)


# -- the account -----------------------------------------------------------------------------------


async def account(secrets: Mapping[str, Sequence[str]]) -> list[Check]:
    """Modal's profile and token, whether the token works, and whether the secrets (by name, with
    who uses them) exist.
    """
    if installed_version("modal") is None:
        return []
    try:
        token = _token()
    except Exception as error:  # noqa: BLE001 - whatever a broken configuration file makes Modal's client raise
        token = Check(
            "modal token",
            "FAIL",
            _line(error),
            "fix or remove the file that MODAL_CONFIG_PATH or ~/.modal.toml names",
        )
    if token.status == "FAIL":
        return [token, *(_unasked(name) for name in secrets)]
    answer = await _answer()
    if answer.status != "ok":
        return [token, answer, *(_unasked(name) for name in secrets)]
    return [token, answer, *[await _secret(name, users) for name, users in secrets.items()]]


def token_check(
    profile: str, settings: Mapping[str, object], environment: Mapping[str, str]
) -> Check:
    """Whether the active profile or the environment has a token.

    Says where from, and never what it is.
    """
    where = f"profile {profile}"
    if settings.get("oauth_refresh_token"):
        return Check("modal token", "ok", f"{where}: a third party's OAuth token")
    absent = [name for name in ("token_id", "token_secret") if not settings.get(name)]
    if absent:
        return _token_absent(where, absent)
    named = [name for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET") if environment.get(name)]
    return Check(
        "modal token",
        "ok",
        f"{where}: from {' and '.join(named) if named else 'the configuration file'}",
    )


def _token_absent(where: str, absent: Sequence[str]) -> Check:
    """Of the token's two parts one or both."""
    found, fix = "no token", "modal token new, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET"
    if len(absent) == 1:
        found = f"{absent[0]} is missing"
        fix = f"set MODAL_{absent[0].upper()} too, or run  modal token new"
    return Check("modal token", "FAIL", f"{where}: {found}", fix)


def _token() -> Check:
    modal_config = imported_modal().config
    names = ("token_id", "token_secret", "oauth_refresh_token")
    return token_check(
        modal_config._profile, {name: modal_config.config.get(name) for name in names}, os.environ
    )


async def _answer() -> Check:
    from modal.exception import AuthError, InvalidError

    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            workspace = await opened_workspace()
    except (AuthError, InvalidError) as error:
        return Check(
            "modal account", "FAIL", f"the token was refused: {_line(error)}", "modal token new"
        )
    except Exception as error:  # noqa: BLE001 - a silent network is no fault of the pipeline's, whatever it looks like
        why = (
            f"no answer in {ANSWER_TIMEOUT_S:g} s"
            if isinstance(error, TimeoutError)
            else _line(error)
        )
        return Check(
            "modal account",
            "warn",
            f"Modal cannot be asked: {why}",
            "check the network, and MODAL_SERVER_URL where set",
        )
    return Check("modal account", "ok", f"workspace {workspace.name}")


async def _secret(name: str, users: Sequence[str]) -> Check:
    import modal

    label = f"modal secret {name}"
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await modal.Secret.from_name(name).hydrate.aio()
    except modal.exception.NotFoundError:
        return Check(
            label,
            "FAIL",
            f"does not exist, but {', '.join(users)} uses it",
            f"modal secret create {name} KEY=VALUE",
        )
    except Exception as error:  # noqa: BLE001 - as above
        return Check(label, "warn", f"Modal cannot be asked: {_line(error)}", "try again")
    return Check(label, "ok", f"exists, for {', '.join(users)}")


def _unasked(name: str) -> Check:
    return Check(
        f"modal secret {name}",
        "warn",
        "not checked: Modal cannot be asked",
        "fix the Modal checks above first",
    )


def _line(error: BaseException) -> str:
    """An error's first sentence on one line, without what a token's variables hold."""
    text = " ".join(str(error).split()) or type(error).__name__
    for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"):
        text = text.replace(os.environ.get(name) or "\0", "...")
    return text[:200]


# -- the file --------------------------------------------------------------------------------------


def declared(file: str, now: datetime) -> tuple[list[Check], list[Pipeline]]:
    """Whether FILE's pipelines load, and when each would run where it is deployed."""
    try:
        pipelines = load_pipelines(file)
    except SettingsError as error:
        return [Check("file", "FAIL", str(error), f"fix {file}")], []
    checks = []
    for p in pipelines:
        names = ", ".join(t.settings.name for t in p.transforms)
        checks += [
            Check(f"pipeline {p.name}", "ok", f"{p.source} -> {p.output} by {names}"),
            *schedule_checks(p, now),
        ]
    return checks, pipelines


def schedule_checks(pipeline: Pipeline, now: datetime) -> list[Check]:
    """When a deployed pipeline runs by itself."""
    d, label = pipeline.settings().deployment, f"schedule {pipeline.name}"
    named = {
        label: d.schedule,
        f"sweep {pipeline.name}": d.sweep,
        **{f"backfill {b.name}": b.schedule for b in d.backfills},
    }
    if d.schedule is None and d.sweep is None:
        fix = 'give it one before a deploy, like schedule="*/5 * * * *"'
        return [Check(label, "warn", "none: deployed, it would run only when it is called", fix)]
    return [
        Check(name, "ok", fires(when, d.timezone, now))
        for name, when in named.items()
        if when is not None
    ]


def fires(schedule: str | float, timezone: str, now: datetime) -> str:
    """A schedule in words, with the next times it comes in its time zone."""
    from cronsim import CronSim

    if not isinstance(schedule, str):
        return f"every {schedule:g} s from the deploy on"
    times = islice(CronSim(schedule, now.astimezone(ZoneInfo(timezone))), FIRES_SHOWN)
    return f'"{schedule}" in {timezone}: next {", ".join(f"{at:%Y-%m-%d %H:%M}" for at in times)}'


def secrets_used(pipelines: Sequence[Pipeline]) -> dict[str, list[str]]:
    """Names of Modal secrets, and the transforms that use each."""
    used: dict[str, list[str]] = {}
    for p in pipelines:
        for t in p.transforms:
            for name in t.settings.resources.secrets:
                used.setdefault(name, []).append(f"{p.name}.{t.settings.name}")
    return used


# -- the bucket ------------------------------------------------------------------------------------


async def bucket_checks(
    bucket: Bucket, pipelines: Sequence[Pipeline], clock: Clock, ids: Ids
) -> list[Check]:
    """Whether the bucket can be listed and written as the pipelines need (without pipelines: at its
    root), and from Modal.
    """
    try:
        store = bucket.open()
    except TidemillError as error:
        return [_refused("bucket", error)]
    places = [(p.source, keys.home(p.name)) for p in pipelines] or [("", keys.HOMES)]
    checks = []
    try:
        for source, home in places:
            checks += await store_checks(store, source, home, clock, ids)
    finally:
        await store.close()
    checks.append(reach_check(store.url, bucket.endpoint_url, local=_is_local(store)))
    return checks + (_mount_checks(pipelines) if store.traits.is_mountable else [])


def _mount_checks(pipelines: Sequence[Pipeline]) -> list[Check]:
    outputs = [p.output for p in pipelines]
    mounted = [p for p in pipelines if p.deployment.access == "mount"]
    return [mount_check(p.name, p.source, outputs) for p in mounted]


async def store_checks(store: Store, source: str, home: str, clock: Clock, ids: Ids) -> list[Check]:
    """List the source prefix, prove below the home prefix what commits rely on, compare the clocks.
    Leaves no object behind.
    """
    found: list[Probed] = []
    list_name, write_name = f"list {source or '/'}", f"write {home}"
    checks = [await _tried(list_name, partial(_listed, store, source, list_name))]
    for name, check in (
        (write_name, partial(_probed, store, home, ids, write_name, found)),
        ("clock", partial(_compared, store, home, clock, ids)),
    ):
        if not failed(checks):
            checks.append(await _tried(name, check))
    return checks + [_unordered(home) for one in found if not one.ordered]


def _unordered(home: str) -> Check:
    return Check(f"order {home}", "warn", UNORDERED, ORDERED)


async def _listed(store: Store, source: str, name: str) -> Check:
    await store.check(source)
    async for page in store.list(source):
        if page.keys:
            return Check(name, "ok", f"there are objects in {store.url}")
    return Check(name, "ok", f"no objects yet in {store.url}")


async def _probed(store: Store, home: str, ids: Ids, name: str, found: list[Probed]) -> Check:
    """Also adds to `found` what the probe found out."""
    found.append(await probe(store, home, ids.nonce()))
    return Check(name, "ok", "conditional writes and reads are honoured, and seen at once")


async def _compared(store: Store, home: str, clock: Clock, ids: Ids) -> Check:
    return clock_check(await _skew_s(store, f"{home}clock-{ids.nonce()}", clock))


def clock_check(skew_s: float) -> Check:
    """The store's clock against this machine's; only deadlines of attempts depend on it."""
    if abs(skew_s) > SKEW_MAX_S:
        way = "ahead of" if skew_s > 0 else "behind"
        return Check(
            "clock",
            "warn",
            f"the store's clock is {abs(skew_s):.0f} s {way} this machine's",
            "set this clock by NTP",
        )
    return Check("clock", "ok", f"within {SKEW_MAX_S:g} s of the store's")


def _is_local(store: Store) -> bool:
    return store.traits.local_root is not None


def reach_check(url: str, endpoint_url: str | None, *, local: bool) -> Check:
    """Whether containers on Modal could use this bucket."""
    if local:
        return Check(
            "from modal",
            "warn",
            f"{url} is on this machine: only local runs reach it",
            "give --bucket s3://... for Modal",
        )
    host = urlsplit(endpoint_url).hostname or "" if endpoint_url else ""
    if _is_private(host):
        fix = "for Modal give an endpoint that is reachable from outside"
        return Check("from modal", "warn", f"the endpoint {host} is on a private network", fix)
    return Check("from modal", "ok", f"{url} at {host or 'AWS'}")


def mount_check(name: str, source: str, outputs: Sequence[str]) -> Check:
    """Whether workers may get the bucket as mounts: whole prefixes, and none that is read lies
    where rows are written.
    """
    label = f"mount {name}"
    fix = 'choose prefixes that end with "/" and do not overlap, or access="api"'
    for prefix in (source, *outputs):
        if not prefix.endswith("/"):
            return Check(label, "FAIL", f"the prefix {prefix!r} does not end with '/'", fix)
    try:
        for output in outputs:
            refuse_overlap(name, source, output)
    except SettingsError as error:
        return Check(label, "FAIL", str(error), fix)
    return Check(label, "ok", f"{source} to read, {', '.join(outputs)} to write")


async def _tried(name: str, check: Callable[[], Awaitable[Check]]) -> Check:
    try:
        return await check()
    except TidemillError as error:
        return _refused(name, error)


def _refused(name: str, error: TidemillError) -> Check:
    fixes = {
        StoreUnsafe: ALTERNATIVE,
        StoreDenied: (
            "check the credentials; python -m infra.iam_policy FILE s3://... prints what they must"
            " allow"
        ),
        StoreUnavailable: "check the network and --endpoint-url, and try again",
        StoreError: "check --bucket, --region and --endpoint-url",
        TidemillError: "check --bucket, --region and --endpoint-url",
    }
    text = " ".join(str(error).split()).removesuffix(f": {ALTERNATIVE}")
    return Check(
        name, "FAIL", text, next(fix for kind, fix in fixes.items() if isinstance(error, kind))
    )


async def _skew_s(store: Store, key: str, clock: Clock) -> float:
    """Seconds by which the store's clock is surely ahead (or, below zero, behind): it may count
    whole seconds only.
    """
    try:
        before_ms = clock.now_ms()
        await store.put(key, b"1", create_only=True)
        after_ms = clock.now_ms()
        written_ms = (await store.head(key)).modified_us / 1000
    finally:
        await store.delete([key])
    return (max(0.0, written_ms - after_ms) + min(0.0, written_ms + 1000 - before_ms)) / 1000


def _is_private(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith((".local", ".internal"))
    return address.is_private or address.is_loopback
