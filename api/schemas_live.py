"""Bodies of what is live: history, streams, pairing codes, proxies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar

import msgspec

from api.bodies import Body
from core.domain.pairing import clean_phone


class NewPairingCode(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`phone_number`: of the phone that will be linked, E.164; blanks, brackets and dashes may stand in it."""

    phone_number: str

    LABELS: ClassVar[Mapping[str, str]] = {"phone_number": "Telefone"}
    RULES: ClassVar[Mapping[str, Callable[[str], Any]]] = {"phone_number": clean_phone}


class PairingCode(msgspec.Struct, frozen=True):
    """A code to type on the phone. Secret while it is good. `expires_at`: at the latest."""

    code: str
    expires_at: datetime

    def __repr__(self) -> str:
        return "PairingCode(***)"


class StatusMessage(msgspec.Struct, frozen=True):
    """Data of `status`: what the page draws its buttons from, in the caller's letter case."""

    status: str
    phone_number: str | None
    connected_at: datetime | None


class PhaseMessage(msgspec.Struct, frozen=True):
    """Data of `phase`: where the chip is on its way. `starts_at`: when its turn to start comes, if it waits."""

    phase: str
    reason: str | None
    reason_text: str | None
    waha_status: str | None
    starts_at: datetime | None


class QrMessage(msgspec.Struct, frozen=True):
    """Data of `qr`: as `GET /chips/{id}/qr` answers. `seconds_left`: until `expires_at`, when this was sent."""

    qr: str | None
    qr_code: str | None
    expires_at: datetime | None
    status: str | None
    message: str
    seconds_left: int | None


class ChipProxy(msgspec.Struct, frozen=True):
    """The proxy of a chip.

    Attributes:
        enabled: whether chips go out through proxies at all; without it everything below says nothing.
        label: the identity that keeps the chip on the same exit.
        country: ISO 3166-1 alpha-2.
        exit_ip: the address that WhatsApp sees; exit_ip_since: since when.
        bytes_this_month: both directions, this calendar month (UTC).
        message: for people, while there is nothing to show.
    """

    enabled: bool
    provider: str | None
    label: str | None
    country: str | None
    exit_ip: str | None
    exit_ip_since: datetime | None
    bytes_this_month: int
    message: str | None
