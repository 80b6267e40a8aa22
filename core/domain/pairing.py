"""Pairing by a code that is typed on the phone instead of scanning a QR: when there can be one."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

import msgspec

from core.domain.accounts import FieldError
from core.domain.desired import Consent, Wanted
from core.domain.facts import WahaStatus
from core.domain.states import ON_ITS_WAY, ChipPhase, ChipStatusWord
from core.domain.views import StoredChip, shown, text_of
from core.errors import Conflict

_MARKS: Final = re.compile(r"[\s().-]")
# ITU-T E.164: a country code that begins with no zero, 15 digits at most.
_E164: Final = re.compile(r"\+[1-9][0-9]{7,14}\Z")
# A Brazilian number written without its plus sign, as WAHA wants it.
_BRAZIL: Final = re.compile(r"55[1-9][1-9][0-9]{8,9}\Z")
# How long WAHA shows QR codes before it gives a session up: 60 s and five times 20 s (waha.md, 2.2).
_SET: Final = timedelta(seconds=160)
_AT_LEAST: Final = timedelta(seconds=20)

_PASSKEY_PHASES: Final = frozenset({ChipPhase.PASSKEY})
_ENDED: Final = frozenset(
    {
        ChipPhase.PARKED,
        ChipPhase.UNLINKED,
        ChipPhase.FAILED,
        ChipPhase.QUARANTINED,
        ChipPhase.BANNED,
        ChipPhase.PAUSED,
    }
)
_OPERATOR_ENDS: Final = frozenset({ChipStatusWord.BANNED, ChipStatusWord.MAINTENANCE, ChipStatusWord.ERROR})

_CONNECTED: Final = "O chip já está conectado. Desconecte-o antes de parear outro aparelho."
_PASSKEY: Final = "O WhatsApp pediu uma chave de acesso (passkey). Confirme no celular que tem este número."
_NOT_NOW: Final = "O chip não pode ser pareado agora. Veja a situação do chip e tente novamente."


class NewestWish(msgspec.Struct, frozen=True):
    """What the newest wish allows, and when it was accepted."""

    consent: str
    intent_at: datetime


def clean_phone(text: str) -> str:
    """Digits with country code, as WAHA takes them, of an E.164 number. Raises FieldError."""
    number = _MARKS.sub("", text)
    if _BRAZIL.match(number):
        number = "+" + number
    if not _E164.match(number):
        raise FieldError("Telefone inválido. Use o formato internacional, como +5511999999999.")
    return number[1:]


def refuse_pairing(chip: StoredChip) -> None:
    """Before anything is wished. Raises Conflict while there is nothing to pair, or only an operator can help."""
    if chip.wanted == Wanted.CONNECTED and chip.seen and chip.waha_status == WahaStatus.WORKING:
        raise Conflict(_CONNECTED, code="chip_connected")
    state = shown(chip)
    if state.status in _OPERATOR_ENDS:
        raise Conflict(text_of(state.reason) or _NOT_NOW, code="chip_not_pairable")


def is_asked_already(chip: StoredChip, wish: NewestWish) -> bool:
    """Whether the newest wish is a press that is still on its way: asking again must not begin all anew."""
    consents = wish.consent != Consent.NONE and (
        chip.connected_at is None or wish.intent_at > chip.connected_at
    )
    on_its_way = not chip.seen or chip.phase in ON_ITS_WAY
    return chip.wanted == Wanted.CONNECTED and consents and on_its_way


def waits_for_code(chip: StoredChip) -> bool:
    """Whether WAHA can be asked for a code: its session shows a QR for this very wish.

    Raises Conflict where it will not come to that by itself; False while it is on its way.
    """
    if chip.wanted != Wanted.CONNECTED:
        raise Conflict(_NOT_NOW, code="chip_not_pairable")  # disconnected meanwhile
    if not chip.seen:
        return False
    if chip.waha_status == WahaStatus.WORKING:
        raise Conflict(_CONNECTED, code="chip_connected")
    if chip.phase in _PASSKEY_PHASES:
        raise Conflict(_PASSKEY, code="passkey_required")
    if chip.phase in _ENDED:
        raise Conflict(text_of(shown(chip).reason) or _NOT_NOW, code="chip_not_pairable")
    return chip.phase == ChipPhase.QR and chip.waha_status == WahaStatus.SCAN_QR_CODE


def code_expires_at(set_began_at: datetime, now: datetime) -> datetime:
    """When a code given at `now` is no longer good at the latest: it goes with the QR set of its session."""
    return max(set_began_at + _SET, now + _AT_LEAST)
