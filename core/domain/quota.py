"""Whether a user may have one more chip. The order of the checks is part of the API: alias, limit, quota."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Final

import msgspec

GIB: Final = 1024**3


class Refusal(StrEnum):
    """Why a chip is not created."""

    ALIAS_TAKEN = "alias_taken"
    CHIP_LIMIT = "chip_limit"
    PROXY_QUOTA = "proxy_quota"


class Standing(msgspec.Struct, frozen=True):
    """What counts when a user asks for one more chip.

    Attributes:
        alias_taken: another live chip of the user has the alias, whatever its letter case.
        chips: live chips; deleted ones count from the moment of their deletion no more.
        max_chips: what the plan allows.
        proxy_bytes: proxy traffic of this calendar month.
        proxy_limit_gb: GiB a month that the plan allows; 0 = no limit.
    """

    alias_taken: bool
    chips: int
    max_chips: int
    proxy_bytes: int = 0
    proxy_limit_gb: Decimal = Decimal(0)


def refusal(standing: Standing) -> Refusal | None:
    """The first rule that speaks against one more chip; None when none does."""
    if standing.alias_taken:
        return Refusal.ALIAS_TAKEN
    if standing.chips >= standing.max_chips:
        return Refusal.CHIP_LIMIT
    if standing.proxy_limit_gb > 0 and standing.proxy_bytes >= standing.proxy_limit_gb * GIB:
        return Refusal.PROXY_QUOTA
    return None


def refusal_text(reason: Refusal, standing: Standing) -> str:
    """What the page shows."""
    if reason is Refusal.ALIAS_TAKEN:
        return "Já existe um chip com esse apelido."
    if reason is Refusal.CHIP_LIMIT:
        return "Limite de chips do plano atingido."
    used, limit = _gb(Decimal(standing.proxy_bytes) / GIB), _gb(standing.proxy_limit_gb)
    return f"Limite de proxy excedido ({used}/{limit} GB). Faça upgrade ou aguarde renovação mensal."


def _gb(value: Decimal) -> str:
    """Up to two decimals, none that say nothing: 5, 1.5, 0.25."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
