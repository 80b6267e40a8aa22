"""Answers about labels, exits and usage of proxies."""

from __future__ import annotations

from datetime import datetime

import msgspec


class ChipExit(msgspec.Struct, frozen=True):
    """One exit of a chip.

    Attributes:
        id: of this line; the `cursor` of the next page.
        label_generation: which label of the chip it was.
        seen_from, seen_until: of the first and the newest reading that saw it.
        why: `first`, `requested`, `shared_exit`, `failing` or `moved` of the label; `provider` when the provider gave
            the same label another exit.
    """

    id: str
    provider: str
    label: str
    label_generation: int
    exit_ip: str
    seen_from: datetime
    seen_until: datetime
    why: str


class LabelRotation(msgspec.Struct, frozen=True):
    """A wish for another label. `generation`: of the label that the chip has still."""

    chip_id: str
    status: str
    generation: int
    message: str


class ProviderUsage(msgspec.Struct, frozen=True):
    """What went through one provider.

    Attributes:
        gb_used: GiB, three decimals.
        cost: R$, two decimals; null when the provider was removed and with it its price.
        tunnels: that were opened. errors: tunnels that were not, by reason.
    """

    provider: str
    bytes_in: int
    bytes_out: int
    bytes_used: int
    gb_used: float
    cost: str | None
    tunnels: int
    errors: dict[str, int]


class UserProviderUsage(msgspec.Struct, frozen=True):
    """What one user's chips used of one provider. `email`: null for an account that is no more."""

    user_id: str
    email: str | None
    provider: str
    bytes_in: int
    bytes_out: int
    bytes_used: int
    gb_used: float
    cost: str | None
    tunnels: int


class FleetProxyUsage(msgspec.Struct, frozen=True):
    """A calendar month (UTC).

    Attributes:
        month: `YYYY-MM`.
        bytes_used, gb_used, cost: of everybody, or of the one user that was asked for; `cost` of what has a price.
        providers: the same by provider.
        users: one page of it by user and provider.
    """

    month: str
    bytes_used: int
    gb_used: float
    cost: str
    providers: list[ProviderUsage]
    users: list[UserProviderUsage]
