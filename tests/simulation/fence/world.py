"""One seed's world of hosts, guards, replicas and a store; its parts find each other here."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from random import Random

from core.settings_guard import lease_problems
from egress.leases import Times
from tests.simulation.fence.apis import Network, Replica
from tests.simulation.fence.clocks import HasNow
from tests.simulation.fence.cluster import Cluster, Daemon
from tests.simulation.fence.guards import Host
from tests.simulation.fence.hostloop import HostLoop
from tests.simulation.fence.judge import Judge
from tests.simulation.fence.stores import Stores
from tests.simulation.loop import Process
from tests.simulation.world import START, Trace

DRIFT = 0.1
DEFAULTS = Times(ttl_s=90, renew_s=10, margin_s=20)


class FenceWorld(HasNow):
    """See the module's words. `counts`, `faults`: what happened and what was done, by kind."""

    def __init__(self, seed: int, *, verbose: bool = False) -> None:
        self.seed = seed
        self.random = random = Random(seed)
        self.loop = HostLoop(seed)  # type: ignore[abstract]  # asyncio asks for no more than it has
        self.trace = Trace(self.loop, verbose=verbose)
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.violation: str | None = None
        self.processes: list[Process] = []
        self._socket = 100
        self.times = DEFAULTS if random.random() < 0.3 else _figures(random)
        self.stores = Stores(self, self.rate())
        self.judge = Judge(self)
        self.cluster = Cluster(self, random.choice((1, 1, 1, 2, 2, 3)))
        self.replicas = [
            Replica(self, f"api-{number}") for number in range(1, random.choice((1, 2, 2, 3)) + 1)
        ]
        self.network = Network(self)
        self.hosts = [
            Host(self, number, self.rate()) for number in range(1, random.choice((2, 2, 2, 3, 3, 4, 5)) + 1)
        ]
        for host in self.hosts:
            host.start_guard()
        self.daemons = [Daemon(self, f"daemon-{number}") for number in (1, 2)]
        for user in self.cluster.users:
            self.cluster.place(user, random.choice(self.hosts))

    @property
    def now(self) -> float:  # type: ignore[override]
        return self.loop._now

    def moment(self) -> datetime:
        return START + timedelta(seconds=self.now)

    def rate(self) -> float:
        """Of a clock: as far off as it may be, in half of the cases."""
        extremes = (1 - DRIFT, 1 + DRIFT)
        return self.random.choice(extremes) if self.random.random() < 0.5 else self.random.uniform(*extremes)

    def next_socket(self) -> int:
        self._socket += 1
        return self._socket

    def violate(self, sentence: str) -> None:
        if self.violation is None:
            self.violation = f"t={self.now:.3f} {sentence}"
            self.trace.note("VIOLATION", "", sentence)
            self.loop.stop()


def _figures(random: Random) -> Times:
    """Some that a guard starts with; as tight as they may be, in half of the cases."""
    ttl_s = random.choice((30.0, 45.0, 60.0, 90.0))
    margin_s = 0.19 * ttl_s + 1 + random.choice((0.0, random.uniform(0, 0.1 * ttl_s)))
    renew_s = (ttl_s - margin_s) / 4 * random.choice((1.0, random.uniform(0.6, 1.0)))
    assert lease_problems(ttl_s, renew_s - 1e-9, margin_s + 1e-9) == []
    return Times(ttl_s, renew_s, margin_s)
