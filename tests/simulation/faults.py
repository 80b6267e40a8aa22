"""What goes wrong, when and for how long: drawn from the seed before anything begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.daemons import CUT_OFF_S, PAUSE_S
from tests.simulation.hosts import Container, Host
from tests.simulation.network import Fate
from tests.simulation.servers import HAND, Job
from tests.simulation.world import World, short

if TYPE_CHECKING:
    from tests.simulation.daemons import Daemon
    from tests.simulation.fleet_of import Fleet

_EFFECTS = frozenset(
    {
        "register", "stop", "purge", "write_variables", "delete_variables", "create_session", "start",
        "restart", "delete", "drop", "logout", "update_session",
    }
)  # fmt: skip
_WRITES = frozenset(
    {
        "claim", "release", "extend", "write_status", "record_registered", "record_variables",
        "take_starts", "remove_chip", "remove_container",
    }
)  # fmt: skip


class Faults:
    """Each method is one kind of fault; it starts when called and ends by itself before `until`."""

    # Kind -> how often it is drawn.
    WEIGHTS = {  # noqa: RUF012
        "daemon_killed_at_step": 10,
        "daemon_killed": 2,
        "daemon_paused": 3,
        "daemon_stopped": 2,
        "daemon_cut_off": 2,
        "reply_lost": 6,
        "call_failed": 4,
        "call_slow": 4,
        "news_dropped": 3,
        "news_doubled": 2,
        "watch_broken": 3,
        "host_cut_off": 4,
        "host_dead": 3,
        "agent_frozen": 4,
        "host_drained": 3,
        "ports_exhausted": 2,
        "port_squatted": 2,
        "image_missing": 1,
        "consul_lies": 4,
        "consul_away": 1,
        "nomad_away": 2,
        "store_away": 2,
        "storage_away": 1,
        "waha_stuck": 2,
        "waha_deaf": 2,
        "waha_failing": 2,
        "waha_key_wrong": 1,
        "waha_disconnects": 2,
        "phone_unlinks": 3,
        "container_killed": 3,
        "container_crashes": 2,
        "job_edited": 2,
        "job_stopped": 2,
        "job_purged": 2,
        "allocation_stopped": 2,
    }

    def __init__(self, world: World, fleet: Fleet, until: float) -> None:
        self.world = world
        self.random = world.random
        self.fleet = fleet
        self.until = until

    def plan(self, count: int, begin: float) -> None:
        kinds = list(self.WEIGHTS)
        drawn = self.random.choices(kinds, list(self.WEIGHTS.values()), k=count)
        for kind in drawn:
            self.world.loop.at(self.random.uniform(begin, self.until - 5.0), self._strike, kind)

    def _strike(self, kind: str) -> None:
        if getattr(self, kind)() is not False:
            self.world.faults[kind] += 1
            self.world.trace.note("FAULT", "", kind)
        else:
            # Nothing there that it could hit: something that always hits instead.
            self.world.faults["call_failed"] += 1
            self.call_failed()

    def _later(self, least_s: float, most_s: float, end: Callable[..., object], *args: object) -> None:
        at = min(self.until, self.world.now + self.random.uniform(least_s, most_s))
        self.world.loop.at(at, end, *args)

    # --- daemons ----------------------------------------------------------------------------------------
    def _daemon(self) -> Daemon | None:
        alive = [d for d in self.world.daemons if not d.process.dead and d.process.held is None]
        return self.random.choice(alive) if alive else None

    def daemon_killed_at_step(self) -> bool:
        daemon = self._daemon()
        if daemon is None or daemon.kill_in is not None:
            return False
        daemon.kill_in = self.random.randint(1, 40)
        self._later(60.0, 300.0, self._disarm, daemon)
        return True

    def _disarm(self, daemon: Daemon) -> None:
        if daemon.kill_in is not None:
            daemon.kill_in = None
            daemon.kill("at no step in particular")

    def daemon_killed(self) -> bool:
        for daemon in list(self.world.daemons):
            if self.random.random() < 0.6:
                daemon.kill("out of the blue")
        return True

    def daemon_paused(self) -> bool:
        daemon = self._daemon()
        if daemon is None:
            return False
        daemon.pause()
        self._later(1.0, PAUSE_S, self.world.loop.resume, daemon.process)
        return True

    def daemon_stopped(self) -> bool:
        daemon = self._daemon()
        if daemon is None:
            return False
        daemon.terminate()
        return True

    def daemon_cut_off(self) -> bool:
        daemon = self._daemon()
        if daemon is None:
            return False
        system = self.random.choice(("nomad", "consul", "waha", "postgres"))
        daemon.cut_from.add(system)
        daemon.troubled_at = self.world.now
        self._later(5.0, CUT_OFF_S, daemon.cut_from.discard, system)
        return True

    # --- calls ------------------------------------------------------------------------------------------
    def _fate(self, kind: str) -> bool:
        system = self.random.choice(("nomad", "nomad", "postgres", "postgres", "waha", "consul", "storage"))
        calls = None
        if kind == "lost" or self.random.random() < 0.4:
            calls = _WRITES if system == "postgres" else _EFFECTS
        if system == "consul" and kind == "lost":
            system = "nomad"
        fate = Fate(kind, system, self.random.randint(1, 6), calls)
        self.world.network.fates.append(fate)
        self._later(60.0, 600.0, self._forget, fate)
        return True

    def _forget(self, fate: Fate) -> None:
        if fate in self.world.network.fates:
            self.world.network.fates.remove(fate)

    def reply_lost(self) -> bool:
        return self._fate("lost")

    def call_failed(self) -> bool:
        return self._fate("before")

    def call_slow(self) -> bool:
        return self._fate("slow")

    # --- news -------------------------------------------------------------------------------------------
    def news_dropped(self) -> bool:
        self.world.network.drop_news = self.random.choice((0.3, 1.0))
        self.world.network.drop_hooks = 1.0
        self._later(30.0, 400.0, self._news_heard)
        return True

    def _news_heard(self) -> None:
        self.world.network.drop_news = 0.0
        self.world.network.drop_hooks = 0.05

    def news_doubled(self) -> bool:
        self.world.network.double_news = 0.7
        self._later(30.0, 600.0, setattr, self.world.network, "double_news", 0.0)
        return True

    def watch_broken(self) -> bool:
        for daemon in self.world.daemons:
            wire = daemon.wire
            if wire.stream is not None and self.random.random() < 0.7:
                wire.stream.cut()
                wire.stream = None
            if wire.hear_ended is not None and not wire.hear_ended.done() and self.random.random() < 0.5:
                wire.hear = None
                self.world.loop.after(self.random.uniform(0.1, 60.0), self._heard, wire.hear_ended)
        return True

    def _heard(self, ended: object) -> None:
        if not ended.done():  # type: ignore[attr-defined]
            ended.set_result(None)  # type: ignore[attr-defined]

    # --- hosts ------------------------------------------------------------------------------------------
    def _host(self) -> Host | None:
        well = [h for h in self.world.hosts if h.working and not h.down and not h.draining]
        return self.random.choice(well) if well else None

    def host_cut_off(self) -> bool:
        host = self._host()
        if host is None:
            return False
        self.world.trace.note("cut-off", host.name)
        host.cut_off(reachable=self.random.random() < 0.5, catalog=self.random.random() < 0.5)
        longest = self.random.choice((15.0, 120.0, 900.0))
        self._later(1.0, longest, host.come_back)
        return True

    def host_dead(self) -> bool:
        host = self._host()
        if host is None:
            return False
        self.world.trace.note("dead", host.name)
        host.die()
        self._later(30.0, 1500.0, host.come_back)
        return True

    def agent_frozen(self) -> bool:
        host = self._host()
        if host is None:
            return False
        self.world.trace.note("frozen", host.name)
        host.freeze()
        self._later(5.0, 900.0, host.come_back)
        return True

    def host_drained(self) -> bool:
        host = self._host()
        if host is None:
            return False
        self.world.trace.note("drain", host.name)
        host.drain()
        self._later(60.0, 900.0, host.undrain)
        return True

    def ports_exhausted(self) -> bool:
        for host in self.world.hosts:
            host.full = True
        self._later(30.0, 500.0, self._ports_again)
        return True

    def _ports_again(self) -> None:
        for host in self.world.hosts:
            host.full = False
        self.world.servers.unblock()

    def port_squatted(self) -> bool:
        """A process that Nomad does not know holds some ports."""
        host = self.random.choice(self.world.hosts)
        some = [port for port in host.ports if port not in host.containers]
        host.squatted = set(self.random.sample(some, min(len(some), 4)))
        self._later(60.0, 900.0, setattr, host, "squatted", set())
        return True

    def image_missing(self) -> bool:
        host = self.random.choice(self.world.hosts)
        host.bad_image_until = min(self.until, self.world.now + self.random.uniform(20.0, 300.0))
        return True

    # --- other systems ----------------------------------------------------------------------------------
    def consul_lies(self) -> bool:
        catalog = self.world.catalog
        if catalog.lie is not None:
            return False
        catalog.set_lie(self.random.choice(("empty", "stale", "ghosts", "stale")))
        self._later(10.0, 400.0, catalog.set_lie, None)
        return True

    def _away(self, system: str, longest_s: float) -> bool:
        down = self.world.network.down
        if system in down:
            return False
        down.add(system)
        self._later(3.0, longest_s, self._back, system)
        return True

    def _back(self, system: str) -> None:
        self.world.network.down.discard(system)
        self.world.network.back_at[system] = self.world.now

    def consul_away(self) -> bool:
        return self._away("consul", 200.0)

    def nomad_away(self) -> bool:
        return self._away("nomad", 200.0)

    def storage_away(self) -> bool:
        return self._away("storage", 600.0)

    def store_away(self) -> bool:
        for daemon in self.world.daemons:
            ended = daemon.wire.hear_ended
            if ended is not None:
                self._heard(ended)
        return self._away("postgres", 150.0)

    # --- WAHA and phones --------------------------------------------------------------------------------
    def _containers(self) -> list[Container]:
        return [c for host in self.world.hosts for c in host.containers.values() if not c.stopping]

    def _some_users(self, into: set[str], longest_s: float) -> bool:
        users = [c.user for c in self._containers()]
        if not users:
            return False
        for user_id in self.random.sample(users, min(len(users), 4)):
            into.add(user_id)
            self._later(20.0, longest_s, into.discard, user_id)
        return True

    def waha_stuck(self) -> bool:
        waha = self.world.waha
        if not self._some_users(waha.stuck, 300.0):
            return False
        for user_id in sorted(waha.stuck):
            waha.drop_connection(user_id)
            for container in waha.containers_of(user_id):
                for live in container.sessions.values():
                    live.stuck = True
        return True

    def waha_deaf(self) -> bool:
        return self._some_users(self.world.waha.deaf, 400.0)

    def waha_failing(self) -> bool:
        return self._some_users(self.world.waha.failing, 400.0)

    def waha_key_wrong(self) -> bool:
        """The container runs with a key that is not the store's; a start with the right variables mends it."""
        containers = self._containers()
        if not containers:
            return False
        container = self.random.choice(containers)
        container.key = "a key that nobody knows"
        self._later(600.0, 900.0, self._mended, container)
        return True

    def _mended(self, container: Container) -> None:
        """An operator restarts what still refuses its key."""
        if not container.ended and container.key != self.world.owners.container_key(container.user):
            container.host.crash(container, for_good=False)

    def waha_disconnects(self) -> bool:
        for container in self._containers():
            if self.random.random() < 0.5:
                self.world.waha.drop_connection(container.user)
        return True

    def phone_unlinks(self) -> bool:
        return self.world.owners.unlink_somebody()

    # --- by hand ----------------------------------------------------------------------------------------
    def container_killed(self) -> bool:
        containers = self._containers()
        if not containers:
            return False
        container = self.random.choice(containers)
        container.host.crash(container, for_good=self.random.random() < 0.4)
        return True

    def container_crashes(self) -> bool:
        """One that dies again and again for a while."""
        containers = self._containers()
        if not containers:
            return False
        user_id = self.random.choice(containers).user
        for number in range(4):
            self._later(1.0 + 20.0 * number, 20.0 + 25.0 * number, self._crash, user_id)
        return True

    def _crash(self, user_id: str) -> None:
        for container in self.world.waha.containers_of(user_id):
            container.host.crash(container, for_good=self.random.random() < 0.5)

    def _job(self) -> tuple[str, Job] | None:
        jobs = [(name, job) for name, job in self.world.servers.jobs.items() if not job.stopped]
        if not jobs:
            return None
        name, job = self.random.choice(jobs)
        self.world.servers.changed_by_hand.add(name)
        return name, job

    def job_edited(self) -> bool:
        found = self._job()
        if found is None:
            return False
        name, job = found
        spec = dict(job.spec)
        if self.random.random() < 0.5:
            spec["Priority"] = 51
        else:
            group = dict(spec["TaskGroups"][0])
            group["Tasks"] = [{**group["Tasks"][0], "KillTimeout": 1}]
            spec["TaskGroups"] = [group]
        self.world.trace.note("by-hand", short(name), "edits the job")
        self.world.servers.register(spec, HAND)
        return True

    def job_stopped(self) -> bool:
        found = self._job()
        if found is None:
            return False
        self.world.servers.stop(found[0], HAND)
        return True

    def job_purged(self) -> bool:
        found = self._job()
        if found is None:
            return False
        self.world.servers.purge(found[0], HAND, drop=False)
        return True

    def allocation_stopped(self) -> bool:
        containers = self._containers()
        if not containers:
            return False
        alloc = self.random.choice(containers).alloc
        self.world.trace.note("by-hand", short(alloc.user), "stops the allocation")
        self.world.servers.stop_alloc(alloc)
        return True
