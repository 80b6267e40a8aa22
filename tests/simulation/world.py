"""What all parts of the simulated world share: the loop, the random numbers, the trace, who is who."""

from __future__ import annotations

import hashlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Any

from core.domain.pacing import Pace
from tests.simulation.loop import VirtualLoop

if TYPE_CHECKING:
    from tests.simulation.daemons import Daemon
    from tests.simulation.discovery import Catalog
    from tests.simulation.egress import Egress
    from tests.simulation.hosts import Host
    from tests.simulation.invariants import Checker
    from tests.simulation.network import Network
    from tests.simulation.owners import Owners
    from tests.simulation.servers import Servers
    from tests.simulation.waha import Sessions

START = datetime(2026, 1, 1, tzinfo=UTC)
_HASHED_AT_ONCE = 512


class Violated(Exception):
    """An invariant does not hold, in one sentence."""


class Trace:
    """Everything that happens, as a hash that two runs of a seed share, and as lines when asked for."""

    def __init__(self, loop: VirtualLoop, *, verbose: bool) -> None:
        self._loop = loop
        self._hash = hashlib.blake2b(digest_size=8)
        self.lines: list[str] = []  # of `verbose`, those of the product's log among them
        self._verbose = verbose
        self._new: list[tuple[float, str, str, object]] = []  # neither hashed nor written out yet
        self._last: list[tuple[float, str, str, object]] = []

    def note(self, kind: str, who: str = "", what: object = "") -> None:
        new = self._new
        new.append((self._loop._now, kind, who, what))
        if self._verbose:
            self.lines.append(_line(new[-1]))
        if len(new) >= _HASHED_AT_ONCE:
            self._absorb()

    def _absorb(self) -> None:
        self._hash.update(repr(self._new).encode())
        self._last, self._new = self._new, []

    @property
    def tail(self) -> list[str]:
        """What happened last; everything when verbose."""
        return self.lines or [_line(one) for one in (*self._last, *self._new)]

    @property
    def digest(self) -> str:
        """Of everything up to now, which ends the trace."""
        self._absorb()
        return self._hash.hexdigest()


def _line(noted: tuple[float, str, str, object]) -> str:
    at, kind, who, what = noted
    return f"{at:10.3f} {kind:<18} {who} {what}"


class World:
    """One seed's world. Its parts find each other here."""

    servers: Servers
    catalog: Catalog
    waha: Sessions
    owners: Owners
    network: Network
    checker: Checker
    egress: Egress
    store: Any
    orphans: Any
    pace: Pace

    def __init__(self, seed: int, *, verbose: bool = False) -> None:
        self.seed = seed
        self.loop = VirtualLoop()  # type: ignore[abstract]  # asyncio asks for no more than it has
        self.random = Random(seed)
        self.trace = Trace(self.loop, verbose=verbose)
        self.hosts: list[Host] = []
        self.daemons: list[Daemon] = []
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.workers = 0  # of each daemon; 0 = few, as in the seeds
        self.image = "image-1"  # what the settings name now
        self.violation: str | None = None
        self.over = False
        self._moment_at, self._moment = 0.0, START

    @property
    def now(self) -> float:
        return self.loop._now

    def moment(self, at: float | None = None) -> datetime:
        """The true wall time, which Nomad and the store go by."""
        if at is not None:
            return START + timedelta(seconds=at)
        now = self.loop._now
        if now != self._moment_at:  # asked several times in one instant
            self._moment_at, self._moment = now, START + timedelta(seconds=now)
        return self._moment

    def violate(self, sentence: str) -> None:
        """An invariant is broken: the run ends here. May be called from anybody's context."""
        if self.violation is None:
            self.violation = f"t={self.now:.3f} {sentence}"
            self.trace.note("VIOLATION", "", sentence)
            self.loop.stop()


@cache
def short(name: str) -> str:
    """Ids of the simulation differ in their last digits alone."""
    return name[-4:].lstrip("0") or "0"
