"""Where the bucket is, and a store for it."""

from __future__ import annotations

import msgspec

from pipeline.ports import Store
from pipeline.stores import open_store


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """Where the bucket is, as given on the command line or in the environment."""

    url: str
    endpoint_url: str | None = None
    region: str | None = None

    def open(self, *, create: bool = False) -> Store:
        """A store for this process. Raises SettingsError for a URL that names no bucket."""
        return open_store(
            self.url, endpoint_url=self.endpoint_url, region=self.region, create=create
        )
