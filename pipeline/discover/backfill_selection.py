"""Which processed objects a backfill takes once more. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.discover.compare import Known
from pipeline.discover.router import Router
from pipeline.model.settings import PipelineSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """See `compare.Again`. prefix: of the whole key. since_us, until_us: bounds on the time of
    change, the later one excluded.

    transform: only objects that this transform takes. outdated: only those whose rows another
    version of the code made. committed_upto: only those whose rows were committed at or before this
    sequence: what a broken-off backfill has not done yet.
    """

    settings: PipelineSettings
    prefix: str = ""
    since_us: int | None = None
    until_us: int | None = None
    transform: str | None = None
    outdated: bool = False
    committed_upto: int | None = None

    def again(self, router: Router) -> _Test:
        """The test that a pass applies to each object at its committed version."""
        return _Test(self, router, {t.name: t.version for t in self.settings.transforms})


@dataclass(frozen=True, slots=True)
class _Test:
    wanted: Selection
    router: Router
    versions: dict[str, str]

    def __call__(self, key: str, modified_us: int, known: Known) -> bool:
        w = self.wanted
        if not key.startswith(w.prefix) or (
            w.committed_upto is not None and known.sequence > w.committed_upto
        ):
            return False
        if (w.since_us is not None and modified_us < w.since_us) or (
            w.until_us is not None and modified_us >= w.until_us
        ):
            return False
        if w.transform is None and not w.outdated:
            return True
        name = self.router.route(key)
        if name is None or (w.transform is not None and name != w.transform):
            return False
        return not w.outdated or self.versions[name] != known.version
