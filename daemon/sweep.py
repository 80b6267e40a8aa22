"""The sweep: what was read in bulk is compared with the store, and whoever differs gets a pass.

It changes nothing outside, and two things in the store: of users whose secrets are gone from Nomad it notes that,
so that their next pass writes them again, and it keeps what the lists say of the hosts. Users at rest make no
request at all between two sweeps, and a sweep's requests do not depend on their number, but for pages of lists and
for the looks that are due: each user at rest has a pass once in `look_s`, because what only WAHA knows stands in no
list. Those are spread evenly over the period.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import structlog

from core.clock import Clock
from core.domain.facts import Known
from core.domain.host_use import host_uses
from core.domain.sweep import Listing, Rhythm, by_phase, compare
from core.store.interface import ReconcileStore
from daemon.lease import HeldLease
from daemon.metrics import Metrics
from daemon.workqueue import WorkQueue

# Users who have to move are sent to a pass this far apart: nobody is in a hurry to wait for a seat.
_ASKS_EVERY_S: Final = 0.05

_log = structlog.get_logger(__name__)


class Sweep:
    """The duty `sweep`; see `daemon.fleet`. `every_s`: the pause between two without any reason for one."""

    name = "sweep"

    def __init__(
        self,
        queue: WorkQueue,
        clock: Clock,
        store: ReconcileStore,
        *,
        every_s: float,
        rhythm: Rhythm | None = None,
        metrics: Metrics | None = None,
        release: str = "",
    ) -> None:
        """`release`: of this daemon's settings; users whose job was made from others get a pass."""
        self.every_s = every_s
        self._queue = queue
        self._clock = clock
        self._store = store
        self._rhythm = rhythm or Rhythm()
        self._metrics = metrics or Metrics()
        self._release = release
        self._last_at: float | None = None
        self._taking_over = True

    @property
    def age_s(self) -> float | None:
        """Seconds since the last sweep that read all lists; None on a daemon that does not sweep."""
        return None if self._last_at is None else self._clock.monotonic() - self._last_at

    def begin(self) -> None:
        """From now on it is ours: whoever is on the way was perhaps looked after by a daemon that is gone."""
        self._taking_over = True

    def end(self) -> None:
        """Somebody else sweeps."""
        self._last_at = None

    async def run(self, held: HeldLease, listing: Listing) -> None:
        """Put everybody who needs a look on the queue. Raises StaleWrite when the lease is lost, Unavailable."""
        now = self._clock.monotonic()
        # After a while without sweeps as much is due as in one period, not everything at once.
        since_s = self.every_s if self._last_at is None else now - self._last_at
        found = compare(
            listing, self._rhythm, since_s=since_s, takeover=self._taking_over, release=self._release
        )
        lacking = found.without_variables
        self._queue.put_all(user for user in found.differing if user not in lacking)
        self._queue.put_all(found.due, spread_s=self.every_s)
        if lacking:
            _log.warning("variables_missing", users=len(lacking), user_ids=lacking[:10])
            await self._store.variables_lost(held.lease, lacking)
            self._queue.put_all(lacking)
        # Under newer settings than ours it is for their daemons to say who has to move.
        outdated = found.outdated if await self._rules(found.outdated) else ()
        self._queue.put_all(outdated, spread_s=min(2 * self.every_s, len(outdated) * _ASKS_EVERY_S))
        whys = Counter(why.value for why in found.differing.values())
        if found.due:
            whys["due"] = len(found.due)
        if outdated:
            whys["outdated"] = len(outdated)
        self._metrics.count_findings(whys)
        self._metrics.set_users(by_phase(listing.users))
        blind = sorted(listing.unread)
        (_log.info if whys or blind else _log.debug)(
            "swept",
            users=len(listing.users),
            found=dict(whys),
            not_read=blind,
            took_s=round(listing.read_s, 3),
        )
        if isinstance(listing.allocations, Known):
            await self._store.record_hosts(held.lease, host_uses(listing.allocations.value))
        self._taking_over = False
        if not blind:
            self._last_at = now

    async def _rules(self, outdated: tuple[str, ...]) -> bool:
        return bool(outdated) and await self._store.newest_release() == self._release
