"""What a user wants, as the store holds it, with what earlier passes left behind about it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec

from core.domain.seat import Seat


class Wanted(StrEnum):
    """What the owner wants of a chip."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    DELETED = "deleted"


class Resources(msgspec.Struct, frozen=True):
    """What a container may use. CPU in MHz, memory in MB; `memory_max_mb` is the hard limit."""

    cpu_mhz: int
    memory_mb: int
    memory_max_mb: int


class SpecHashes(msgspec.Struct, frozen=True):
    """Fingerprints of a rendered job.

    Attributes:
        spec: over all slots.
        restart: over the slots whose change restarts the container.
    """

    spec: str
    restart: str


class Registered(msgspec.Struct, frozen=True):
    """What we registered last, with the JobModifyIndex that Nomad gave it.

    `release`: of the settings that it was made from, "" where that is not on record.
    """

    hashes: SpecHashes
    modify_index: int
    release: str = ""


class Tries(msgspec.Struct, frozen=True):
    """What was already spent on a chip's current generation.

    Attributes:
        generation: the generation that these numbers belong to; with another one they count as zero.
        failures: starts or restarts in a row that did not bring the session up.
        qr_rounds: QR sets shown; each create, reconnect or pairing-code call buys a number of them.
        last_at: when the last start or restart was sent.
    """

    generation: int = 0
    failures: int = 0
    qr_rounds: int = 0
    last_at: datetime | None = None


class DesiredChip(msgspec.Struct, frozen=True):
    """One chip.

    Attributes:
        intent_at: when the newest intent was accepted.
        connected_at: first time it was seen connected; None = never paired.
        unlinked_generation: generation in which WAHA was seen to have lost its credentials; a newer
            generation means that the owner pressed Conectar since.
        phase, reason, status, since: what the last pass wrote, and since when.
    """

    id: str
    wanted: Wanted
    generation: int
    intent_at: datetime
    created_at: datetime
    connected_at: datetime | None = None
    unlinked_generation: int | None = None
    tries: Tries = Tries()
    phase: str = ""
    reason: str | None = None
    status: str = ""
    since: datetime | None = None

    @property
    def needs_pairing(self) -> bool:
        """A QR code is the only way to connect it: never paired, or unlinked on the phone."""
        return self.connected_at is None or self.unlinked_generation is not None


class DesiredContainer(msgspec.Struct, frozen=True):
    """A user's container.

    Attributes:
        wanted_hashes: fingerprints of the job as it should be now.
        registered: what was registered last; None = never, or removed since.
        variables_hash / wanted_variables_hash: fingerprint of the secrets written to / wanted in Nomad.
        pinned: an operator wants it even without chips.
        empty_since: when its last chip left; None while it has any.
        deleted: its owner or an operator removed it.
        paused: an operator wants none of its sessions to run.
        renderable: a job can be made of the settings; without one nothing is registered.
        isolated: its storage was seen to be its own.
        key_renewed_for: the allocation that was replaced for refusing our key; None once one took it.
        release: of the settings of this daemon: fingerprint of what in them restarts containers.
        superseded: a daemon with other settings was started after this one.
        seat: in a rollout; None when it never needed one.
    """

    user_id: str
    generation: int
    wanted_hashes: SpecHashes
    wanted_variables_hash: str
    registered: Registered | None = None
    variables_hash: str | None = None
    pinned: bool = False
    empty_since: datetime | None = None
    deleted: bool = False
    phase: str = ""
    reason: str | None = None
    since: datetime | None = None
    current_allocation: str | None = None
    paused: bool = False
    renderable: bool = True
    isolated: bool = False
    key_renewed_for: str | None = None
    release: str = ""
    superseded: bool = False
    seat: Seat | None = None


class Desired(msgspec.Struct, frozen=True):
    """One user's wishes: the container and its chips, tombstones included, oldest first."""

    container: DesiredContainer
    chips: tuple[DesiredChip, ...]
    max_chips: int
