"""What the reconciler needs of a store, so that it runs on PostgreSQL and on an in-memory store alike.

The rules behind each method (who may write, what a lease is worth) are the same for every store and are
tested by one contract suite.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Final, Protocol

import msgspec

from core.domain.actions import ChipStatus, ContainerStatus
from core.domain.desired import Consent, Memory, Registered, Resources, Tries, Wanted
from core.domain.evidence import Evidence
from core.domain.facts import Peers
from core.domain.guard_wire import Upstream
from core.domain.host_use import HostUse
from core.domain.looks import Look
from core.domain.pacing import Ask, Pace, Turns
from core.domain.routes import ChipRoute, LabelWhy, NoRoute, Reading
from core.domain.seat import Seat, SeatWhy
from core.domain.sweep import UserSummary as UserSummary

# Between tries for a key that somebody else holds.
_SOONEST_S: Final = 0.05
_USUAL_PASS_S: Final = 1.0
# On record in place of a fingerprint where secrets were written and are gone: like no fingerprint there is,
# and still something that a removal deletes, for a list may lack what exists.
VARIABLES_LOST: Final = "lost"


class Lease(msgspec.Struct, frozen=True):
    """A claimed key.

    Attributes:
        token: rises with each claim of the key; observed writes carry it.
        sent_at: the claimer's own monotonic clock when it *sent* the claim (seconds).
        ttl_s: life from then on.
    """

    key: str
    owner: str
    token: int
    sent_at: float
    ttl_s: float

    @property
    def ends_at(self) -> float:
        """On the claimer's monotonic clock."""
        return self.sent_at + self.ttl_s


class Release(Enum):
    """How a key is freed together with what its pass saw; see `ReconcileStore.release`."""

    LOOKED = "looked"
    UNLOOKED = "unlooked"


class Busy(msgspec.Struct, frozen=True):
    """Somebody else holds the key.

    Attributes:
        retry_after_s: until its lease runs out, if nobody renews it.
        owner: who holds it.
    """

    retry_after_s: float
    owner: str = ""

    @property
    def look_again_s(self) -> float:
        """When to try again. A pass ends within a second as a rule and a dead holder within its lease.

        Waiting for the lease's end would keep the news of this daemon waiting for a minute although its
        holder was done long before; the key must not be dropped either.
        """
        return min(max(self.retry_after_s, _SOONEST_S), _USUAL_PASS_S)


class Answered(msgspec.Struct, frozen=True):
    """Another owner began a look after the news came and saw everything: there is nothing left to look at."""


class ContainerSecrets(msgspec.Struct, frozen=True):
    """Plain secrets of one container. Never logged, never in a job."""

    api_key: str
    hook_key: str

    def __repr__(self) -> str:
        return "ContainerSecrets(***)"


class ContainerRow(msgspec.Struct, frozen=True):
    """The container as stored, with what its job is rendered from.

    Attributes:
        paused: an operator wants none of its sessions to run.
        isolated_at: when its storage was first seen to be its own.
        key_renewed_for: the allocation that is or was replaced because it refused our key; None once one
            took it.
        restart_generation, restart_allocation, restarted_generation, restart_mark: see `DesiredContainer`.
        start_order: of its plan; lower starts first.
    """

    user_id: str
    email: str
    plan_slug: str
    resources: Resources
    max_chips: int
    generation: int
    pinned: bool
    deleted: bool
    namespace: str
    storage_id: str
    created_at: datetime
    phase: str
    reason: str | None
    since: datetime
    registered: Registered | None
    variables_hash: str | None
    current_allocation: str | None
    empty_since: datetime | None
    secrets: ContainerSecrets
    paused: bool = False
    isolated_at: datetime | None = None
    key_renewed_for: str | None = None
    restart_generation: int = 0
    restart_allocation: str | None = None
    restarted_generation: int = 0
    restart_mark: int | None = None
    start_order: int = 20


class ChipRow(msgspec.Struct, frozen=True):
    """One chip as stored, tombstones included (`wanted` is then `deleted`).

    `waiting_since`: since when it is on its way to its connection, without a break. `route`: None = it never had a
    label.
    """

    id: str
    wanted: Wanted
    generation: int
    intent_at: datetime
    created_at: datetime
    connected_at: datetime | None
    unlinked_generation: int | None
    tries: Tries
    phase: str
    reason: str | None
    status: str
    since: datetime
    consent: Consent = Consent.NONE
    banned: bool = False
    released_generation: int = 0
    memory: Memory = Memory()
    last_activity_at: datetime | None = None
    waiting_since: datetime | None = None
    route: ChipRoute | None = None


class UserSnapshot(msgspec.Struct, frozen=True):
    """One user as one transaction saw it; chips oldest first.

    Attributes:
        seat: in a rollout, None without one.
        newest_release: of the settings that rule now, None before any daemon announced its own.
        fleet_paused: an operator wants nothing changed outside, for anybody.
    """

    container: ContainerRow
    chips: tuple[ChipRow, ...]
    seat: Seat | None = None
    newest_release: str | None = None
    fleet_paused: bool = False


class PortTaken(msgspec.Struct, frozen=True):
    """The (address, port) of a status has an open ledger entry of another allocation; nothing was written."""

    address: str
    port: int
    holder_user_id: str
    holder_allocation_id: str


class Written(msgspec.Struct, frozen=True):
    """The status was written.

    Attributes:
        epoch: of the current placement, None when there is none.
        generation: highest generation now stored for the user (container and chips); one that is higher
            than what the pass loaded means: look again at once.
        changed: something that people or caches see moved; listeners of `observed` were told.
        closed: allocations whose ledger entries were closed.
        released: the key was freed with it; `generation` was the highest at that moment.
    """

    epoch: int | None
    generation: int
    changed: bool
    closed: tuple[str, ...] = ()
    released: bool = False


class ReconcileStore(Protocol):
    """Everything a pass reads and writes. All methods raise core.errors.Unavailable when the store is away."""

    async def claim(
        self, key: str, owner: str, ttl_s: float, *, news_age_s: float | None = None
    ) -> Lease | Busy | Answered:
        """Take the key's lease if it is free, expired or already ours; the token rises with each claim.

        `news_age_s`: how long ago the news came for which the key is claimed. When another owner has begun
        a look since that saw everything, the answer is Answered and nothing is changed.
        """

    async def extend(self, lease: Lease) -> Lease | None:
        """Give the lease its full life again, counted from now; None when it was lost."""

    async def release(self, lease: Lease, *, looked: bool = False) -> int | None:
        """Free the key; the user's highest generation at that moment, None when the lease was already lost.

        `looked`: everything was seen under this lease and what is next is planned, so other owners need
        not look for news that came before the claim.
        """

    async def load(self, user_id: str, lease: Lease | None = None) -> UserSnapshot | None:
        """The user's container and chips; None when there is no container row.

        `lease`: of a claim that was made for this load and just now: then it may be what the claim saw, which lacks
        no write of an earlier holder.
        """

    async def is_fleet_paused(self) -> bool:
        """Whether an operator has the fleet paused right now: asked before each effect, for a pass may last."""

    async def user_ids(self) -> tuple[str, ...]:
        """Every user with a container row: the keys of a resync."""

    async def summaries(self) -> tuple[UserSummary, ...]:
        """One row per container, by user id: what a sweep needs of all users, in one read."""

    async def peers(self, user_id: str, window_s: float) -> Peers:
        """Paired chips of other users that are wanted connected and share the user's host, engine or provider.

        `lately` counts those that fail since no longer than `window_s`.
        """

    async def record_registered(self, lease: Lease, registered: Registered | None) -> None:
        """Keep what was registered (None after a purge), at once after the effect. Raises StaleWrite."""

    async def record_variables(self, lease: Lease, hash_: str | None) -> None:
        """Keep the fingerprint of the written secrets (None after their removal). Raises StaleWrite."""

    async def variables_lost(self, fleet: Lease, user_ids: Collection[str]) -> None:
        """Keep that the secrets of these users are gone from Nomad, so that their next passes write them.

        Whoever has none on record is left as it is. `fleet`: the lease of whoever sweeps. Raises StaleWrite.
        """

    async def record_hosts(self, fleet: Lease, uses: Sequence[HostUse]) -> None:
        """Keep what a sweep saw of the hosts, in place of what stood there. Raises StaleWrite."""

    async def record_renewal(self, lease: Lease, allocation_id: str) -> None:
        """Keep that this allocation is replaced for refusing our key, *before* that is done. Raises StaleWrite."""

    async def record_restart_begun(self, lease: Lease, restarts: int) -> None:
        """Keep how often the task was restarted *before* it is told to restart. Raises StaleWrite."""

    async def record_restarted(self, lease: Lease, generation: int) -> None:
        """Keep that the wish of this generation was answered, at once after the effect. Raises StaleWrite."""

    async def take_starts(
        self, lease: Lease, asks: Sequence[Ask], pace: Pace, tries: Mapping[str, Tries]
    ) -> Turns | None:
        """Take the start tokens of these chips, for each all of its buckets' or none, *before* its start is sent.

        Who gets its tokens has what the start costs kept with them (`tries`, by chip id). Who gets none stands in
        line until `Waits.counts_until`, and asks again. A token whose start is not sent is lost. None while the
        fleet is paused: then nothing is taken and nobody stands in line. Raises StaleWrite.
        """

    async def assign_label(self, lease: Lease, chip_id: str, why: LabelWhy) -> ChipRoute | NoRoute:
        """Give a chip of the lease's user a label at the default provider, or take its released one up again.

        Goes to the sub-user that has room and the fewest live labels. A released label whose sub-user still serves
        is the same one again, unless another was asked for; any other call raises the label's generation. With
        `NoRoute` nothing was changed. Raises StaleWrite, also for a chip that is not (any more) the user's.
        """

    async def release_label(self, lease: Lease, chip_id: str) -> None:
        """The chip speaks no more; its label is free for no other chip, and its place at the sub-user for all.

        Nothing happens to one that is released or was never given. Raises StaleWrite.
        """

    async def upstream(self, chip_id: str) -> Upstream | NoRoute:
        """What the chip's label goes out through, with its credential opened.

        NoRoute without a live label, while its provider or sub-user is disabled, gone or in trouble, and
        beyond the plan's traffic. Raises
        core.crypto.SecretUnreadable.
        """

    async def record_reading(self, lease: Lease, chip_id: str, generation: int, reading: Reading) -> None:
        """Keep what a look at the exit saw, if the label is still of that generation and live.

        One that succeeded goes into the chip's history of exits as well: a new line whenever label or exit changed.
        Raises StaleWrite.
        """

    async def announce_release(self, release: str) -> None:
        """A daemon with these settings begins its work: unless they are the newest by now, they become that.

        A release that becomes the newest starts its rollout unpaused, whatever became of an earlier one.
        """

    async def newest_release(self) -> str | None:
        """The release that was announced last, None before any was."""

    async def ask_seat(self, lease: Lease, release: str, restart_hash: str) -> None:
        """Wait for a seat with the job of that hash; nothing happens when `release` is not the newest.

        A seat for another job that moves or failed is given up for it: the user is broken, and the chips of
        that move stay on record. Raises StaleWrite.
        """

    async def leave_seat(self, lease: Lease) -> None:
        """Give up a seat that waits or moves. Raises StaleWrite."""

    async def settle_seat(self, lease: Lease, *, ok: bool, why: SeatWhy | None = None) -> None:
        """Tell how the move ended, if the user still moves. Raises StaleWrite."""

    async def write_status(
        self,
        lease: Lease,
        container: ContainerStatus,
        chips: Mapping[str, ChipStatus],
        generations: Mapping[str, int],
        container_generation: int,
        *,
        release_ports_of: tuple[str, ...] = (),
        evidence: Evidence | None = None,
        look: Look | None = None,
        release: Release | None = None,
    ) -> Written | PortTaken:
        """Write what a pass saw, in one transaction guarded by the lease's token.

        Moves the placement (epoch + 1) when `container.placed` names another allocation than the current
        one; opens and closes ledger entries; inserts a chip event per change of status; raises `revision`
        where a rendered column changed; notifies channel `observed` with the user id. `generations`:
        generation per chip id that the pass loaded, stored as observed_generation. A chip whose stored
        generation is newer keeps its status (its owner's wish came after what we saw). `release_ports_of`:
        allocations of *other* users seen client-terminal or gone, whose open entries are closed in the same
        transaction. `evidence`: what explanations are made from, kept when it differs from what the pass
        before saw (`core/domain/evidence.py`); that alone is no news. `look`: the same for the plan
        (`core/domain/looks.py`). `release`: free the key in the same transaction, when something is written; a
        write that found nothing to change leaves that to `release`. Raises StaleWrite when the token is no
        longer the lease's.
        """

    async def remove_chip(self, lease: Lease, chip_id: str, generation: int) -> None:
        """Remove a tombstone's row and its events.

        `generation`: the newest that the pass loaded. Raises StaleWrite, when a wish came since as well: the container
        that was to go with the chip's session may be wanted again.
        """

    async def remove_container(self, lease: Lease) -> bool:
        """Remove the container row with its placements and ledger entries, unless a chip came meanwhile.

        False when the user has chips again (nothing is removed then). Raises StaleWrite.
        """
