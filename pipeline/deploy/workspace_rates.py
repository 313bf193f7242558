"""What the active Modal workspace pays for a second, where Modal says so; else the list prices, and
why.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.model.modal_prices import GPU_USD_PER_S, Rates

ANSWER_TIMEOUT_S = 5.0
"""How long Modal may take to answer; its own client would try for a minute."""
_CARD_KEYS = {"A10": "a10g", "RTX-PRO-6000": "rtx6000"}
"""Cards that Modal's rates call otherwise than `gpu=` does."""


async def workspace_rates() -> Rates:
    """The workspace's own rates; the list prices if Modal gives none within ANSWER_TIMEOUT_S.

    `source` says which, and why.
    """
    try:
        imported_modal()  # takes its time, which is not Modal's
        return await _asked_rates()
    except ImportError:
        why = "Modal's client is not installed"
    except TimeoutError:
        why = "Modal does not answer"
    except Exception as error:  # noqa: BLE001 - an estimate needs no account: whatever went wrong, the table is there
        refused = type(error).__name__ == "AuthError"
        why = (
            "no token that Modal takes"
            if refused
            else f"Modal gave no rates: {type(error).__name__}"
        )
    listed = Rates()
    return Rates(source=f"{listed.source} ({why})")


async def _asked_rates() -> Rates:
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        workspace = await opened_workspace()
        by_key = {key: float(value) for key, value in (await workspace.billing.rates.aio()).items()}
    return rates_of(by_key, workspace.name or "?")


async def opened_workspace() -> Any:
    """The workspace that the active token belongs to.

    Raises what Modal's client raises: AuthError for a missing or wrong token.
    """
    modal = imported_modal()
    client = await modal.Client.from_env.aio()
    workspace = modal.Workspace.from_context(client=client)
    await workspace.hydrate.aio(client)
    return workspace


def imported_modal() -> Any:
    """Modal's client.

    Where its configuration file is broken it prints a banner on standard output, then raises: only
    raise.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        import modal
    return modal


def rates_of(usd_per_hour: Mapping[str, float], workspace: str) -> Rates:
    """Modal's mapping as rates a second.

    Pure. Raises ValueError for one without cores and memory, or with figures that are none.

    Cards that it lacks are reckoned at their list price, and `source` names them.
    """
    missing = [card for card in GPU_USD_PER_S if _card_key(card) not in usd_per_hour]
    _check_usable(usd_per_hour, missing)
    cards = {
        card: GPU_USD_PER_S[card] if card in missing else usd_per_hour[_card_key(card)] / 3600
        for card in GPU_USD_PER_S
    }
    return Rates(
        gpu_usd_per_s=cards,
        cpu_usd_per_core_s=usd_per_hour["cpu_hour_cost"] / 3600,
        memory_usd_per_gib_s=usd_per_hour["mem_gib_hour_cost"] / 3600,
        source=f"rates of the workspace {workspace}"
        + (f" (list prices for {', '.join(missing)})" if missing else ""),
    )


def _check_usable(usd_per_hour: Mapping[str, float], missing: Sequence[str]) -> None:
    wanted = {
        "cpu_hour_cost",
        "mem_gib_hour_cost",
        *(_card_key(card) for card in GPU_USD_PER_S if card not in missing),
    }
    for key in sorted(wanted):
        if not 0 < usd_per_hour.get(key, 0.0) < math.inf:
            raise ValueError(f"Modal's rates have no usable {key}")


def _card_key(card: str) -> str:
    return "gpu_hour_cost_" + _CARD_KEYS.get(card, card.lower().replace("-", "_"))
