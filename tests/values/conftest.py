"""The share of the properties that `make test` has is the same in every run, whatever ran before it
in the process.

hypothesis also draws constants of the modules that are loaded by then, and there is no setting for
that.
"""

from __future__ import annotations

from hypothesis.internal.conjecture import providers

if hasattr(providers, "_get_local_constants"):
    providers._get_local_constants = lambda: providers._local_constants
