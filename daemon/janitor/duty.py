"""One round of the janitor, as a duty under the lease `fleet`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec
import structlog

from core.clock import Clock
from core.domain.belongings import Kind, Listings
from core.domain.facts import Unknown
from core.domain.orphans import GOING, Change, Forgot, Moved, Orphan, Rules, Saw, State, judge
from core.domain.sweep import Listing
from core.store.orphans import Book, OrphanStore
from daemon.janitor.housekeeping import Housekeeper
from daemon.janitor.looks import Looks
from daemon.janitor.removal import Remover
from daemon.lease import HeldLease
from daemon.metrics import Metrics

# What may stand in another's way goes first: jobs before their variables, all of them before storage.
_ORDER: Final = (
    Kind.JOB,
    Kind.SESSION,
    Kind.INSTANCE,
    Kind.VARIABLES,
    Kind.DATABASE,
    Kind.NAMESPACE,
)
_MEASURED_A_ROUND: Final = 10
_BYTES: Final = "bytes"
# A removal is not begun when the fleet's lease, or this run's time, would end soon.
_ROOM_S: Final = 15.0
# The sweep waits for its turn meanwhile; what is left over is the next round's.
_REMOVALS_S: Final = 30.0

_log = structlog.get_logger(__name__)


class Janitor:
    """Duty `janitor`: finds orphans, asks for a yes, removes what has one, keeps the store tidy.

    Args:
        housekeeper: closes and removes what the store needs no longer; None = nobody does.
    """

    name = "janitor"

    def __init__(
        self,
        *,
        looks: Looks,
        remover: Remover,
        orphans: OrphanStore,
        rules: Rules,
        clock: Clock,
        every_s: float,
        housekeeper: Housekeeper | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.every_s = every_s
        self._looks = looks
        self._remover = remover
        self._orphans = orphans
        self._rules = rules
        self._clock = clock
        self._housekeeper = housekeeper
        self._metrics = metrics or Metrics()
        self._held_back: Mapping[Kind, int] = {}
        self._unread: tuple[str, ...] = ()

    async def run(self, held: HeldLease, listing: Listing) -> None:
        """One round. Raises StaleWrite when the lease is lost, Unavailable when the store is away."""
        book = await self._orphans.book()
        listings = await self._looks.everything(listing, book.rows)
        self._tell_unread(listings)
        owners = await self._looks.owners_of(listings)
        judgement = judge(book.rows, listings, owners, book.now, self._rules)
        self._tell_held_back(judgement.held_back)
        changes = await self._measured(judgement.changes, book.rows)
        await self._orphans.apply(held.lease, changes)
        self._tell(changes, book.rows)
        # Read anew: what the round itself and operators have changed meanwhile.
        book = await self._orphans.book()
        if await self._remove_approved(held, book):
            book = await self._orphans.book()
        self._metrics.set_orphans(Counter((row.found.kind.value, row.state.value) for row in book.rows))
        if self._housekeeper is not None:
            await self._housekeeper.run(held, listing)

    async def _remove_approved(self, held: HeldLease, book: Book) -> bool:
        """Whether anything on record may have changed by it."""
        due = [row for row in book.rows if row.state in GOING and _is_due(row, book.now)]
        until = self._clock.monotonic() + _REMOVALS_S
        for row in sorted(due, key=lambda row: (_ORDER.index(row.found.kind), row.id)):
            if not held.allows(_ROOM_S) or self._clock.monotonic() >= until:
                break  # the next round goes on
            await self._remover.remove(held, row)
        return bool(due)

    async def _measured(self, changes: Sequence[Change], rows: Sequence[Orphan]) -> list[Change]:
        """How large each new namespace is: asked once, then kept, since it costs the server a walk."""
        known = {row.found.key: row.found.costs.get(_BYTES) for row in rows if row.state is not State.REMOVED}
        left = _MEASURED_A_ROUND
        measured: list[Change] = []
        for change in changes:
            if isinstance(change, Saw) and change.found.kind is Kind.NAMESPACE:
                found = change.found
                size = known.get(found.key)
                if size is None and left > 0:
                    left -= 1
                    size = await self._looks.size(found.place, found.name)
                if size is not None:
                    found = msgspec.structs.replace(found, costs={**found.costs, _BYTES: size})
                change = Saw(found)
            measured.append(change)
        return measured

    def _tell(self, changes: Sequence[Change], rows: Sequence[Orphan]) -> None:
        by_id = {row.id: row.found for row in rows}
        for change in changes:
            match change:
                case Moved(orphan_id=id_, after=State.WAITING):
                    found = by_id[id_]
                    _log.warning("orphan_waits_for_a_yes", orphan_id=id_, kind=found.kind, orphan=found.name)
                case Moved(orphan_id=id_, after=after, decided_by=by):
                    found = by_id[id_]
                    _log.info("orphan_moved", orphan_id=id_, orphan=found.name, state=after, approved_by=by)
                case Forgot(orphan_id=id_, why=why):
                    _log.info("orphan_forgotten", orphan_id=id_, orphan=by_id[id_].name, why=why)

    def _tell_held_back(self, held_back: Mapping[Kind, int]) -> None:
        if held_back and held_back != self._held_back:
            counts = {kind.value: count for kind, count in held_back.items()}
            _log.error("janitor_held_back", orphans=counts)
        self._held_back = held_back

    def _tell_unread(self, listings: Listings) -> None:
        plain = {"jobs": listings.jobs, "variables": listings.variables, "instances": listings.instances}
        facts = {**plain, **{f"storage {id_}": fact for id_, fact in listings.storage.items()}}
        unread = tuple(f"{name} ({fact.why})" for name, fact in facts.items() if isinstance(fact, Unknown))
        if unread and unread != self._unread:
            _log.warning("janitor_saw_in_part", unread=unread)
        self._unread = unread


def _is_due(row: Orphan, now: datetime) -> bool:
    return row.next_try_at is None or row.next_try_at <= now
