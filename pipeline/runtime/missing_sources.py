"""Sources that are not there: an empty prefix, and keys that no object has.

Each is said with the nearest that there is.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import nearest
from pipeline.model import keys
from pipeline.model.pass_report import PassReport
from pipeline.ports import Store
from pipeline.runtime.runtime import Runtime
from pipeline.wording import printable

JUMPS_MAX = 50
"""Folders of one level that are looked at: each takes a request."""
LAST = "\U0010ffff"


def is_empty(runtime: Runtime, report: PassReport) -> bool:
    """Whether a pass listed all of the bucket's source, and there was nothing."""
    return report.complete and not report.listed and runtime.pipeline.upstream is None


async def empty_source(runtime: Runtime) -> str:
    """One line for a source prefix without objects, and where there are some."""
    source, store = runtime.settings.source, runtime.store
    if not source:
        return f"there is no object in {store.url}"
    text = f"there is no object below {source!r} in {store.url}"
    ours = (keys.HOMES, runtime.settings.output)
    found = await _folders_near(store, source, ours)
    if not found:
        some = await _first(store, "", "", ours)
        return f"{text}; there is {some!r}" if some is not None else f"{text}, nor elsewhere in it"
    return text + _near(source, found)


async def _folders_near(store: Store, source: str, own: Sequence[str]) -> list[str]:
    """Prefixes beside the source's first part that is empty, and below those that might be meant
    for it.
    """
    parts, above = source.rstrip("/").split("/"), ""
    for depth, part in enumerate(parts):
        found = [
            folder for folder in await _folders(store, above) if not folder.startswith(tuple(own))
        ]
        if f"{above}{part}/" not in found:
            deeper = len(parts) - depth - 1
            return [
                *found,
                *[one for folder in found[:5] for one in await _below(store, folder, deeper)],
            ]
        above += f"{part}/"
    return []


async def _below(store: Store, folder: str, levels: int) -> list[str]:
    found = [folder]
    for _ in range(levels):
        found = [one for each in found[:5] for one in await _folders(store, each)]
    return found if levels else []


async def _folders(store: Store, above: str) -> list[str]:
    """The folders right below a prefix that have objects, each found by going on behind the one
    before.
    """
    found: list[str] = []
    after = ""
    for _ in range(JUMPS_MAX):
        key = await _first(store, above, after)
        if key is None:
            break
        name, slash, _ = key[len(above) :].partition("/")
        after = f"{above}{name}/{LAST}" if slash else key
        if slash and name:
            found.append(f"{above}{name}/")
    return found


async def _first(store: Store, prefix: str, after: str, but: Sequence[str] = ()) -> str | None:
    """The first object's key behind `after` that is no folder marker, and below none of the
    prefixes `but`.
    """
    async for page in store.list(prefix, start_after=after):
        for key, size in zip(page.keys, page.sizes, strict=True):
            if not keys.is_folder_marker(key, size) and not key.startswith(tuple(but)):
                return key
    return None


def below(runtime: Runtime, names: Sequence[str]) -> list[str]:
    """The keys among the names that the pipeline reads."""
    source = runtime.settings.source
    return [key for key in names if key.startswith(source) and key != source]


async def unknown_keys(runtimes: Sequence[Runtime], names: Sequence[str]) -> list[str]:
    """Which of the names no object has, and no pipeline knows: of others it is news that they are
    gone.
    """
    heads = await runtimes[0].store.head_many(names)
    gone = [
        key
        for key, head in zip(names, heads, strict=True)
        if head is None or keys.is_folder_marker(key, head.size_bytes)
    ]
    for runtime in runtimes:
        mine = below(runtime, gone)
        if not mine:
            continue
        known = await _known(runtime, mine)
        gone = [key for key in gone if key not in known]
    return gone


async def said_absent(store: Store, name: str) -> str:
    """One line for a key that no object has and that nobody knew, with the nearest one in its
    folder.
    """
    folder = name.rpartition("/")[0]
    if name.endswith("/"):
        return f"'{printable(name)}' stands for a folder: name the objects in it"
    beside: list[str] = []
    async for page in store.list(f"{folder}/" if folder else ""):
        beside = [printable(key) for key in page.keys[:1000]]
        break
    close = nearest(printable(name), beside)
    return (
        f"there is no object '{printable(name)}' in"
        f" {store.url}{close if close.startswith('; did') else ''}"
    )


async def _known(runtime: Runtime, names: Sequence[str]) -> set[str]:
    log = (await runtime.live()).log()
    state = await log.load()
    await log.look_up(state, names)
    return {
        key for key in names if state.entry(key) or key in state.quarantine or key in state.wanted
    }


def _near(source: str, found: list[str]) -> str:
    close = nearest(source, found)
    if close.startswith("; did"):
        return close
    return f"; there are objects below {', '.join(map(repr, found[:5]))}"
