"""What is written into a chip's history when its status changes. Pure; the texts are a table."""

from __future__ import annotations

from datetime import datetime
from types import MappingProxyType
from typing import Final

import msgspec

from core.domain.states import ChipPhase, Reason, reason_text

STATUS_CHANGE: Final = "status_change"

PHASE_TEXT: Final = MappingProxyType(
    {
        ChipPhase.QUEUED: "Na fila: o chip inicia assim que o serviço do WhatsApp estiver pronto.",
        ChipPhase.CREATING: "Criando a sessão do WhatsApp.",
        ChipPhase.STARTING: "Iniciando a sessão do WhatsApp.",
        ChipPhase.QR: "QR Code disponível: escaneie com o WhatsApp do aparelho.",
        ChipPhase.PASSKEY: "O WhatsApp pede uma confirmação no aparelho.",
        ChipPhase.CONNECTED: "Chip conectado ao WhatsApp.",
        ChipPhase.RECONNECTING: "Conexão perdida: reconectando com as mesmas credenciais.",
        ChipPhase.RETRYING: "A última tentativa falhou; nova tentativa em instantes.",
        ChipPhase.PARKED: "Chip em espera. Clique em Conectar para continuar.",
        ChipPhase.UNLINKED: "O aparelho foi desvinculado no WhatsApp.",
        ChipPhase.FAILED: "Não foi possível conectar o chip.",
        ChipPhase.PAUSED: "Chip em manutenção.",
        ChipPhase.QUARANTINED: "Chip em quarentena.",
        ChipPhase.BANNED: "Chip banido pelo WhatsApp.",
        ChipPhase.DISCONNECTING: "Desconectando o chip.",
        ChipPhase.DISCONNECTED: "Chip desconectado.",
        ChipPhase.DELETING: "Removendo o chip.",
    }
)

# They come and go with an outage that hits every chip at once and say nothing about this one.
_PASSING_REASONS: Final = frozenset(
    {
        Reason.WAHA_NOT_READY,
        Reason.RESTARTING,
        Reason.PACED,
        Reason.DEPENDENCY_NOMAD,
        Reason.DEPENDENCY_CONSUL,
        Reason.DEPENDENCY_WAHA,
        Reason.DEPENDENCY_REDIS,
        Reason.DEPENDENCY_STORAGE,
    }
)


class Standing(msgspec.Struct, frozen=True):
    """Where a chip stands: phase, reason code and the API's status word."""

    phase: str
    reason: str | None
    status: str


class ChipEvent(msgspec.Struct, frozen=True):
    """One line of a chip's history.

    Attributes:
        code: the reason, or the phase where there is none.
        description: pt-BR.
        extra_data: `from` and `to` are status words, upper case.
    """

    type: str
    code: str
    description: str
    extra_data: dict[str, str | int | None]


# For whoever runs the host; its owner can do nothing about it.
_RESERVE: Final = (
    " Operador: para que o Nomad não use mais a porta {held}, reserve-a no client.hcl do host com "
    'client {{ reserved {{ reserved_ports = "{port}" }} }}.'
)


def status_event(
    before: Standing,
    after: Standing,
    generation: int,
    *,
    held_port: str | None = None,
    until: datetime | None = None,
) -> ChipEvent | None:
    """The event of going from `before` to `after`; None when people would learn nothing from it.

    `held_port`: `host:port` that the event of reason `port_in_use` names. `until`: when what the reason names
    ends by itself.

    A new status or phase is news. A new reason alone is news unless it is an outage's that passes.
    """
    moved = (before.phase, before.status) != (after.phase, after.status)
    new_reason = after.reason is not None and after.reason != before.reason
    if not moved and (not new_reason or after.reason in _PASSING_REASONS):
        return None
    text = reason_text(after.reason) or PHASE_TEXT[ChipPhase(after.phase)]
    if after.reason == Reason.PORT_IN_USE:
        held = held_port or "ocupada"
        text += _RESERVE.format(held=held, port=held.rsplit(":", 1)[-1] if held_port else "PORTA")
    return ChipEvent(
        type=STATUS_CHANGE,
        code=after.reason or after.phase,
        description=text,
        extra_data={
            "from": before.status,
            "to": after.status,
            "phase": after.phase,
            "reason": after.reason,
            "generation": generation,
            **({} if until is None else {"until": until.isoformat()}),
        },
    )
