"""What goes wrong: each fault has a time, a kind and, most of them, an end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.fence.clocks import HostClock

if TYPE_CHECKING:
    from tests.simulation.fence.cluster import User
    from tests.simulation.fence.guards import Host
    from tests.simulation.fence.world import FenceWorld


class Faults:
    """`calm` ends them all."""

    def __init__(self, world: FenceWorld, until: float) -> None:
        self.world = world
        self._until = until
        self._calm = False
        self._ends: list[Callable[[], None]] = []
        kinds: dict[str, tuple[float, Callable[[], object]]] = {
            "guard_frozen": (3, self._guard_frozen),
            "guard_killed": (1, self._guard_killed),
            "guard_restarted": (1, self._guard_restarted),
            "host_suspended": (2, self._host_suspended),
            "host_dead": (1, self._host_dead),
            "host_drifts": (1, lambda: self._host().clock.drifts.change(world.now, world.rate())),
            "link_cut": (1.5, self._link_cut),
            "requests_lost": (1, lambda: self._link("requests_lost", 0.7)),
            "requests_late": (2, lambda: self._link("requests_late", 0.5)),
            "requests_doubled": (1.5, lambda: self._link("doubled", 0.8)),
            "answers_lost": (1.5, lambda: self._link("answers_lost", 0.7)),
            "answers_late": (2, lambda: self._link("answers_late", 0.7)),
            "api_away": (1, self._api_away),
            "api_replica_away": (1, self._replica_away),
            "api_replica_frozen": (2, self._replica_frozen),
            "api_replica_restarted": (1, lambda: world.random.choice(world.replicas).begin()),
            "store_away": (1, self._store_away),
            "store_restarted": (0.7, self._store_restarted),
            "store_failed_over": (2, self._store_failed_over),
            "store_clock_stepped": (2, self._store_stepped),
            "store_drifts": (0.5, lambda: world.stores.clock.drifts.change(world.now, world.rate())),
            "drained": (3, lambda: world.cluster.drain(self._user())),
            "crashed": (2, lambda: world.cluster.crash(self._user())),
            "believed_ended": (2, lambda: self._lost_hold(self._user())),
            "purged": (1.5, lambda: world.cluster.purge(self._user())),
            "agent_frozen": (3, lambda: self._agent("frozen")),
            "agent_cut": (1.5, lambda: self._agent("cut")),
            "daemon_late": (1, self._daemon_late),
            "upstream_stalled": (1.5, self._upstream_stalled),
        }  # fmt: skip
        # Some kinds for each seed: all of them together hide each other, as a hold after doubt hides most.
        drawn = {kind for kind in kinds if world.random.random() < 0.4} | {"agent_frozen", "guard_frozen"}
        self._kinds = {kind: one for kind, one in kinds.items() if kind in drawn}
        self._weights = [weight for weight, _ in self._kinds.values()]

    def plan(self, count: int, first_s: float) -> None:
        random = self.world.random
        for _ in range(count):
            self.world.loop.surely(random.uniform(first_s, self._until), self._strike)

    def _strike(self) -> None:
        if self._calm:
            return
        (kind,) = self.world.random.choices(list(self._kinds), self._weights)
        self.world.faults[kind] += 1
        self.world.trace.note("FAULT", kind)
        self._kinds[kind][1]()

    def calm(self) -> None:
        """All is well again; what late requests still do is the product's business."""
        world = self.world
        self._calm = True
        world.trace.note("calm")
        for end in self._ends:
            end()
        for host in world.hosts:
            host.start_guard()
            world.loop.surely(10.0, host.start_guard)  # one that was told to stop while it stood still
        world.cluster.heal()

    def _for(self, seconds: float, end: Callable[[], None]) -> None:
        """Let `end` happen then, or when all faults end; a second time does no harm."""
        over = False

        def once() -> None:
            nonlocal over
            if not over:
                over = True
                end()

        self._ends.append(once)
        self.world.loop.surely(seconds, once)

    def _length(self) -> float:
        """Short, about a life of a lease, or longer."""
        random, ttl_s = self.world.random, self.world.times.ttl_s
        return random.choice(
            (random.uniform(1, 20), random.uniform(0.5, 1.3) * ttl_s, random.uniform(1, 2) * ttl_s)
        )

    def _host(self) -> Host:
        """Rather one where somebody runs."""
        random = self.world.random
        busy = [user.wanted() for user in self.world.cluster.users]
        hosts = [one.host for one in busy if one is not None]
        return random.choice(hosts) if hosts and random.random() < 0.7 else random.choice(self.world.hosts)

    def _user(self) -> User:
        return self.world.random.choice(self.world.cluster.users)

    # --- guards and hosts -------------------------------------------------------------------------------
    def _guard_frozen(self) -> None:
        """At any moment, or with a request on its way; while it stands still its chips may move on."""
        guard, random = self._host().guard, self.world.random
        if guard is None:
            return
        length_s = self._length()
        if random.random() < 0.4:
            guard.freezes_asking_s = length_s
        else:
            guard.freeze(length_s)
        self._for(length_s + 2 * self.world.times.renew_s, guard.well)
        if random.random() < 0.6:
            self._move_from(guard.host)

    def _move_from(self, host: Host) -> None:
        cluster, random = self.world.cluster, self.world.random
        for user in cluster.users:
            one = user.wanted()
            if one is not None and one.host is host:
                move = random.choice((cluster.drain, cluster.crash, cluster.purge, self._lost_hold))
                self.world.loop.surely(random.uniform(0, 20), move, user)

    def _guard_killed(self) -> None:
        host = self._host()
        host.kill_guard()
        self._for(self.world.random.uniform(0.5, 30), host.start_guard)

    def _guard_restarted(self) -> None:
        host = self._host()
        if host.guard is not None:
            host.guard.stop()
            self._for(self.world.random.uniform(6, 20), host.start_guard)

    def _host_suspended(self) -> None:
        host = self._host()
        if host.agent != "well" or host.clock.asleep:
            return
        self.world.trace.note("suspended", host.name)
        clock: HostClock = host.clock
        clock.sleep(self.world.now)
        guard = host.guard
        host.agent = "frozen"

        def wake() -> None:
            if host.clock is not clock or host.agent == "dead":
                return  # it died in its sleep
            self.world.loop.wake(clock)
            if guard is not None:
                guard.well()
            self._agent_back(host)

        length_s = self._length()
        if guard is not None:
            guard.freeze(length_s)
        self._missed(host, length_s)
        self._for(length_s, wake)

    def _host_dead(self) -> None:
        host = self._host()
        if host.agent == "dead":
            return
        host.agent = "dead"
        host.kill_guard()
        for user in self.world.cluster.users:
            for container in user.containers:
                if container.host is host:
                    container.die()

        def boot() -> None:
            host.clock = HostClock(self.world.now, self.world.rate())
            host.agent = "frozen"
            self._agent_back(host)
            host.start_guard()

        length_s = self._length()
        self._missed(host, length_s)
        self._for(length_s, boot)

    # --- between guards and store -----------------------------------------------------------------------
    def _link_cut(self) -> None:
        link = self.world.network.link(self._host())
        link.cut = True
        self._for(self._length(), lambda: setattr(link, "cut", False))

    def _link(self, what: str, most: float) -> None:
        link = self.world.network.link(self._host())
        setattr(link, what, self.world.random.uniform(0.1, most))
        self._for(self._length(), lambda: setattr(link, what, 0.0))

    def _api_away(self) -> None:
        network = self.world.network
        network.refuses = self.world.random.random() < 0.5
        for replica in self.world.replicas:
            replica.up = False
        self._for(self._length(), self._replicas_up)

    def _replicas_up(self) -> None:
        for replica in self.world.replicas:
            if not replica.up:
                replica.up = True
                replica.begin()

    def _replica_away(self) -> None:
        replica = self.world.random.choice(self.world.replicas)
        replica.up = False
        self._for(self._length(), self._replicas_up)

    def _replica_frozen(self) -> None:
        replica = self.world.random.choice(self.world.replicas)
        replica.freeze()
        self._for(self._length(), replica.thaw)

    # --- the store --------------------------------------------------------------------------------------
    def _store_away(self) -> None:
        self.world.stores.down(True)
        self._for(self._length(), lambda: self.world.stores.down(False))

    def _store_restarted(self) -> None:
        self.world.stores.down(True)

        def up() -> None:
            self.world.stores.restart()
            self.world.stores.down(False)

        self._for(self.world.random.uniform(0.5, 30), up)

    def _store_failed_over(self) -> None:
        """Replication lags for a while before the server is lost."""
        stores, random = self.world.stores, self.world.random
        stores.stall_replication()
        lag_s = random.choice((random.uniform(0, 5), random.uniform(5, 90)))

        def lost() -> None:
            stores.down(not self._calm)

        def promoted() -> None:
            stores.fail_over(random.choice((0.0, random.uniform(-2, 2), random.uniform(-30, 60))))
            stores.down(False)

        self.world.loop.surely(lag_s, lost)
        self._for(lag_s + random.uniform(0.1, 20), promoted)

    def _store_stepped(self) -> None:
        """Forward or back; with all of the API begun anew, when it shares the machine."""
        random = self.world.random
        self.world.stores.step(
            random.choice((random.uniform(1.2, 30), random.uniform(30, 400), -random.uniform(1.2, 30)))
        )
        if random.random() < 0.4:
            for replica in self.world.replicas:
                replica.begin()

    # --- Nomad and the daemons --------------------------------------------------------------------------
    def _lost_hold(self, user: User) -> None:
        self.world.cluster.believed_ended(user, 2 * self._length())

    def _agent(self, how: str) -> None:
        host = self._host()
        if host.agent != "well":
            return
        host.agent = how
        length_s = self._length() + self.world.random.choice((0, 30))
        self._missed(host, length_s)
        if how == "cut":
            self.world.loop.surely(60.0, self._stops_by_itself, host)
        if self.world.random.random() < 0.6:
            self._link_cut_of(host, length_s)
        self._for(length_s, lambda: self._agent_back(host))

    def _link_cut_of(self, host: Host, length_s: float) -> None:
        link = self.world.network.link(host)
        link.cut = True
        self._for(length_s, lambda: setattr(link, "cut", False))

    def _stops_by_itself(self, host: Host) -> None:
        if host.agent == "cut":
            for user in self.world.cluster.users:
                for container in user.containers:
                    if container.host is host:
                        container.die()

    def _missed(self, host: Host, length_s: float) -> None:
        missed_s = self.world.random.uniform(10, 25)
        if missed_s < length_s:
            self.world.loop.surely(missed_s, self.world.cluster.heartbeat_missed, host)

    def _agent_back(self, host: Host) -> None:
        if host.agent == "dead":
            return  # what ends now began before it died
        host.agent = "well"
        self.world.trace.note("agent back", host.name)
        self.world.cluster.returned(host)

    def _daemon_late(self) -> None:
        daemon = self.world.random.choice(self.world.daemons)
        daemon.late_s = self.world.random.uniform(5, 60)
        self._for(self._length(), lambda: setattr(daemon, "late_s", 1.0))

    def _upstream_stalled(self) -> None:
        host = self._host()
        host.stall(True)
        if self.world.random.random() < 0.5:
            self._move_from(host)
        self._for(self._length(), lambda: host.stall(False))
