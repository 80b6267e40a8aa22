"""One row of the tables of causes, and the words that many rows share."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec


class Situation(StrEnum):
    """What an explanation can say beyond a reason. Stable: part of the API."""

    NOT_LOOKED_AT = "not_looked_at"
    NOT_SEEN = "not_seen"
    DISCONNECTED = "disconnected"
    DISCONNECTING = "disconnecting"
    CONSTRAINT_UNMET = "constraint_unmet"
    JOB_BY_HAND = "job_by_hand"
    OUT_OF_MEMORY = "out_of_memory"
    INSTANCE_MISSING = "instance_missing"
    CONTAINER_STARTING = "container_starting"
    CONTAINER_MOVING = "container_moving"
    SESSION_STARTING = "session_starting"
    SESSION_FAILED = "session_failed"
    WAITS_FOR_SCAN = "waits_for_scan"
    WAITS_FOR_PASSKEY = "waits_for_passkey"
    CONNECTED = "connected"


class Proof(StrEnum):
    """What of the evidence belongs to a cause."""

    JOB = "job"
    PLACEMENT = "placement"
    ALLOCATIONS = "allocations"
    CHECKS = "checks"
    SESSION = "session"
    STORAGE = "storage"
    EGRESS = "egress"
    EFFECTS = "effects"
    AWAY = "away"


class CauseRow(msgspec.Struct, frozen=True):
    """One row.

    Attributes:
        loop: pt-BR, what happens next by itself. owner: pt-BR, what the chip's owner can do.
        operator: English, what an operator can do; "" = as the phase's deadline says.
        commands: to look with; `{job}`, `{allocation}`, `{user}` and `{chip}` are filled in, and one that needs
            an allocation is left out while none is known.
        text: pt-BR, what is the matter, for a code that is no reason (yet).
    """

    loop: str
    owner: str
    operator: str = ""
    commands: tuple[str, ...] = ()
    proofs: tuple[Proof, ...] = ()
    text: str = ""


NOTHING: Final = "Nada a fazer: o sistema continua sozinho."
WE_KNOW: Final = "Nada a fazer agora; se demorar, fale com o suporte e informe o código desta causa."
PRESS: Final = "Clique em Conectar quando quiser tentar de novo."

JOB: Final = "nomad job status {job}"
EVALS: Final = "nomad eval list -job {job}"
ALLOC: Final = "nomad alloc status {allocation}"
LOGS: Final = "nomad alloc logs -stderr {allocation}"
SHOW: Final = "wahafleet container show {user}"
NODES: Final = "nomad node status"

TASKS: Final = (Proof.ALLOCATIONS, Proof.CHECKS)
SESSIONS: Final = (Proof.SESSION, Proof.EGRESS)
