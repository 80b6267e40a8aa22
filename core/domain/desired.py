"""What a user wants, as the store holds it, with what earlier passes left behind about it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec

from core.domain.routes import ChipRoute
from core.domain.seat import Seat


class Wanted(StrEnum):
    """What the owner wants of a chip."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    DELETED = "deleted"


class Consent(StrEnum):
    """What the newest wish allows to lose for it. It belongs to that wish alone.

    NONE: nothing. PRESS: Conectar was pressed: the credentials, once nothing else is left to try and it is
    this chip alone that fails. FRESH: the credentials, at once.
    """

    NONE = "none"
    PRESS = "press"
    FRESH = "fresh"


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


class Breaker(msgspec.Struct, frozen=True, omit_defaults=True):
    """A chip's circuit breaker: starts that nobody pressed for, whatever generation they belong to.

    Attributes:
        starts: when, oldest first, within the window.
        open_until: closed again from then on, with one try; None = closed.
        tried: that one try was made.
        trips: when it opened for the chip's own failing, oldest first.
        opened_generation: the wish in which it opened; a press since then passes it, with its whole ladder.
        passed_generation: the wish whose press has passed it.
        quarantined_generation: None unless it opened too often; an operator's release that is newer ends it.
    """

    starts: tuple[datetime, ...] = ()
    open_until: datetime | None = None
    tried: bool = False
    trips: tuple[datetime, ...] = ()
    opened_generation: int = 0
    passed_generation: int = 0
    quarantined_generation: int | None = None


class Rhythm(msgspec.Struct, frozen=True, omit_defaults=True):
    """How often a connected chip shows life.

    Attributes:
        gap_s: the longest silence between two signs of life, slowly forgotten.
        restarts: when it was restarted for being deaf, oldest first.
    """

    gap_s: int = 0
    restarts: tuple[datetime, ...] = ()


class Memory(msgspec.Struct, frozen=True, omit_defaults=True):
    """What passes remember of a chip beyond the tries of its newest wish."""

    breaker: Breaker = Breaker()
    rhythm: Rhythm = Rhythm()


class DesiredChip(msgspec.Struct, frozen=True):
    """One chip.

    Attributes:
        intent_at: when the newest intent was accepted.
        connected_at: when its latest connection was first seen; None = never paired.
        unlinked_generation: generation in which WAHA was seen to have lost its credentials; a newer
            generation means that the owner pressed Conectar since.
        phase, reason, status, since: what the last pass wrote, and since when.
        consent: of the newest intent.
        banned: an operator, or a service that knows, says that WhatsApp banned it.
        released_generation: of an operator's newest release from quarantine; 0 = never.
        last_activity_at: last sign of life, to the minute.
        route: what it goes out through; None = it never had a label.
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
    consent: Consent = Consent.NONE
    banned: bool = False
    released_generation: int = 0
    memory: Memory = Memory()
    last_activity_at: datetime | None = None
    route: ChipRoute | None = None

    @property
    def consents(self) -> bool:
        """The newest wish allows to lose credentials, and it did not connect since, which ends that."""
        if self.consent is Consent.NONE or self.wanted is not Wanted.CONNECTED:
            return False
        return self.connected_at is None or self.intent_at > self.connected_at

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
        restart_generation: of the newest wish to restart it; restart_allocation: what ran at that time.
        restarted_generation: of the newest such wish that was answered.
        restart_mark: restarts of its task before the restart that is under way; None = none was tried.
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
    restart_generation: int = 0
    restart_allocation: str | None = None
    restarted_generation: int = 0
    restart_mark: int | None = None
    release: str = ""
    superseded: bool = False
    seat: Seat | None = None


class Desired(msgspec.Struct, frozen=True):
    """One user's wishes: the container and its chips, tombstones included, oldest first.

    `fleet_paused`: an operator wants nothing changed outside, for anybody.
    """

    container: DesiredContainer
    chips: tuple[DesiredChip, ...]
    max_chips: int
    fleet_paused: bool = False
