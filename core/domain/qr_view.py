"""What the QR route says, from what the store holds: a QR is asked for in one situation alone.

The page has fixed texts of its own for STARTING, SCAN_QR_CODE, FAILED and STOPPED; wherever a person must
read our sentence instead, `status` is null. The sentence is never empty while there is no QR.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from core.domain.desired import Wanted
from core.domain.facts import WahaStatus
from core.domain.states import ChipPhase, Reason
from core.domain.views import StoredChip, shown, text_of

UNREACHABLE: Final = "O serviço do WhatsApp está iniciando ou indisponível. Tentando novamente..."
PREPARING: Final = "Preparando a sessão do WhatsApp. O QR Code aparece em instantes."
SCAN: Final = "Abra o WhatsApp no celular e escaneie o QR Code."
_DISCONNECTED: Final = "Chip desconectado. Clique em Conectar para conectar novamente."
_CONNECTED: Final = "Chip conectado."
_STARTING: Final = "Iniciando a sessão do WhatsApp. O QR Code aparece em instantes."
_RESTARTING: Final = "A sessão do WhatsApp falhou e está sendo reiniciada. Aguarde um instante."
_PASSKEY: Final = "O WhatsApp pediu uma chave de acesso (passkey). Confirme no celular que tem este número."

_PACED: Final = "Muitos chips estão iniciando ao mesmo tempo; este inicia sozinho {wait}. O QR Code, se preciso, aparece aqui."
_SHORTLY_S, _TENS_S, _MINUTES_FROM_S = 5.0, 10, 91.0

# A QR code is good for 60 s when it is the first of a set, the others for 20 s each (WAHA docs, "QR").
_FIRST_QR: Final = timedelta(seconds=60)
_NEXT_QR: Final = timedelta(seconds=20)

_AT_REST: Final = frozenset(
    {
        ChipPhase.PARKED,
        ChipPhase.UNLINKED,
        ChipPhase.FAILED,
        ChipPhase.QUARANTINED,
        ChipPhase.BANNED,
        ChipPhase.PAUSED,
    }
)
_RESTART_COMES: Final = frozenset({ChipPhase.STARTING, ChipPhase.RETRYING, ChipPhase.RECONNECTING})
_PASSKEYS: Final = frozenset({WahaStatus.PASSKEY_REQUIRED, WahaStatus.PASSKEY_CONFIRMATION_REQUIRED})


class QrState(msgspec.Struct, frozen=True):
    """What the store alone can say.

    Attributes:
        ask: WAHA shows a QR and is to be asked for it; the rest is what to say if it gives none.
        status: WAHA's word, or None when a person must read `message`.
    """

    status: str | None
    message: str
    ask: bool = False


def qr_state(chip: StoredChip, now: datetime) -> QrState:
    """The rules in order; the first that holds speaks."""
    if chip.wanted != Wanted.CONNECTED:
        return QrState(None, _DISCONNECTED)
    reason = shown(chip).reason
    if reason == Reason.PACED and chip.waha_status != WahaStatus.SCAN_QR_CODE:
        return QrState(None, paced_text(chip.starts_at, now))
    if not chip.seen or chip.waha_status is None:
        return QrState(None, text_of(reason) or PREPARING)
    if chip.phase in _AT_REST:
        return QrState(None, text_of(reason or Reason.RECONNECT_FAILED) or UNREACHABLE)
    return told_by_waha(chip.waha_status, chip.phase, reason)


def paced_text(starts_at: datetime | None, now: datetime) -> str:
    """How long a chip still stands in line for its start, as people would say it."""
    left_s = 0.0 if starts_at is None else (starts_at - now).total_seconds()
    if left_s <= _SHORTLY_S:
        return _PACED.format(wait="em instantes")
    if left_s < _MINUTES_FROM_S:
        return _PACED.format(wait=f"em cerca de {_TENS_S * math.ceil(left_s / _TENS_S)} segundos")
    return _PACED.format(wait=f"em cerca de {math.ceil(left_s / 60)} minutos")


def told_by_waha(waha_status: str, phase: str, reason: str | None = None) -> QrState:
    """What WAHA's own word means for somebody who waits for a QR; `phase` says what we do about it."""
    if waha_status == WahaStatus.SCAN_QR_CODE:
        return QrState(None, UNREACHABLE, ask=True)
    if reason is not None:
        return QrState(None, text_of(reason) or UNREACHABLE)
    if waha_status == WahaStatus.WORKING:
        return QrState(waha_status, _CONNECTED)
    if waha_status == WahaStatus.STARTING:
        return QrState(waha_status, _STARTING)
    if waha_status in _PASSKEYS:
        return QrState(waha_status, _PASSKEY)
    if waha_status == WahaStatus.FAILED and phase in _RESTART_COMES:
        return QrState(waha_status, _RESTARTING)
    return QrState(None, PREPARING)


def qr_expires_at(set_began_at: datetime, now: datetime) -> datetime:
    """When the code that is shown at `now` is replaced, for a set of codes that began at `set_began_at`."""
    first_ends = set_began_at + _FIRST_QR
    if now < first_ends:
        return first_ends
    return first_ends + _NEXT_QR * ((now - first_ends) // _NEXT_QR + 1)


def status_told(payload: object) -> tuple[str, ...]:
    """The statuses in the payload of a `session.status` webhook, oldest first; empty when it tells none."""
    if not isinstance(payload, Mapping):
        return ()
    newest = payload.get("status")
    listed = payload.get("statuses")
    told = (
        [one.get("status") for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    )
    # Older versions send no list, or one that ends before the status itself.
    if isinstance(newest, str) and (not told or told[-1] != newest):
        told.append(newest)
    return tuple(status for status in told if isinstance(status, str))


def qr_lasts(statuses: Sequence[str]) -> timedelta:
    """How long the code lasts that a session has just shown. `statuses`: its newest ones, oldest first.

    One of unknown place in its set counts as a later one: asking too early costs a call, too late a scan.
    """
    first = len(statuses) > 1 and statuses[-2] != WahaStatus.SCAN_QR_CODE
    return _FIRST_QR if first else _NEXT_QR


def is_next_code(statuses: Sequence[str]) -> bool:
    """Whether a session tells no more than that it shows the next code of its set. As `qr_lasts`."""
    return len(statuses) > 1 and set(statuses[-2:]) == {WahaStatus.SCAN_QR_CODE}


def qr_set_began_at(chip: StoredChip) -> datetime:
    """The best guess from the store: the last start, or when the status last changed if that was later."""
    return chip.since if chip.started_at is None else max(chip.since, chip.started_at)
