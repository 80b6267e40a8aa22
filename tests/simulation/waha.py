"""WAHA in every container, its storage, and the phones that scan, or unlink.

A session's credentials live in the storage of its user's namespace and outlive containers; what runs lives
in one container's memory. WAHA's own restore at boot is off, as in the jobspec.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.clients.waha_models import AlreadyExists, WahaProbe, WahaProxy, WahaSession, WahaSessionConfig
from core.domain.facts import WahaStatus
from core.domain.names import database_name
from core.errors import DependencyError, Missing, Rejected, Unavailable
from tests.simulation.hosts import Container
from tests.simulation.releases import FORGETS
from tests.simulation.world import START, World, short

_QR_S = 160.0
_AGAIN_S = 5.0  # an engine knocks at its proxy again
_PLAIN = WahaSessionConfig()
_LOCK_WAIT_S, _LOCK_HOLD_S = 5.0, 30.0
Reply = Callable[[Any, DependencyError | None], None]
_STARTED = ("start", "restart", "create_session")


class Stored:
    """What storage keeps of a session."""

    __slots__ = ("dead", "me", "paired", "proxy", "proxy_at")

    def __init__(self, proxy: WahaProxy | None = None, at: float = 0.0) -> None:
        self.proxy = proxy  # of its config, written at `proxy_at`
        self.proxy_at = at
        self.paired = False
        self.me: str | None = None
        self.dead = (
            False  # credentials that WhatsApp takes no more and the engine keeps: FAILED until a logout
        )


class Live:
    """A session object in one container."""

    __slots__ = ("deaf_at", "deaf_gap_s", "run", "since", "status", "stuck", "worked_at")

    def __init__(self) -> None:
        self.status = WahaStatus.STOPPED
        self.since = 0.0
        self.worked_at: float | None = None  # when it last came to WORKING
        self.run = 0  # of its starts, so that old timers say nothing
        self.stuck = False
        self.deaf_at: float | None = None  # WORKING in name only since then
        self.deaf_gap_s = 0  # the longest silence that was known of it then


class Sessions:
    """`stuck`: users whose sessions do not come up. `deaf`: whose WAHA answers nothing but its check.
    `failing`: whose WAHA answers 500. `refused`: whom WhatsApp lets nobody in for the moment."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.storage: dict[str, dict[str, Stored]] = {}
        self.forgotten: dict[str, dict[str, Stored]] = {}  # what the image that forgets keeps instead
        self.databases: dict[str, set[str]] = {}
        self.locks: dict[tuple[int, str], float] = {}
        self.stuck: set[str] = set()
        self.deaf: set[str] = set()
        self.failing: set[str] = set()
        self.refused: set[str] = set()

    # --- containers -------------------------------------------------------------------------------------
    def container_at(self, address: str, port: int) -> Container | None:
        for host in self.world.hosts:
            if host.address == address:
                container = host.containers.get(port)
                if container is None or not container.listening or not host.reachable:
                    return None
                return container
        return None

    def container_ended(self, container: Container) -> None:
        container.sessions.clear()

    def running(self, container: Container) -> int:
        return sum(1 for live in container.sessions.values() if live.status is not WahaStatus.STOPPED)

    def drop(self, namespace: str, database: str) -> None:
        """One session's database is removed on the server."""
        for name in sorted(self.databases.get(namespace, ())):
            if database_name(namespace, name) == database:
                self.databases[namespace].discard(name)
                self.storage.get(namespace, {}).pop(name, None)

    # --- calls, as they arrive --------------------------------------------------------------------------
    def arrive(
        self, address: str, port: int, key: str, method: str, args: tuple[Any, ...], call: Call
    ) -> None:
        """A request reached the host."""
        container = self.container_at(address, port)
        if container is None:
            call.fail(Unavailable("waha", "nobody listens there", code="unreachable"))
        elif container.user in self.deaf:
            call.fail_late(Unavailable("waha", "no answer in time", code="timeout"))
        elif container.user in self.failing:
            call.fail(Unavailable("waha", "500"))
        elif key != container.key:
            call.fail(Rejected("waha", "401", code="waha_key_rejected"))
        elif method == "sessions":
            call.answer(self._list(container))
        elif method == "probe":
            self._probe(container, args[0], call)
        else:
            self._locked(container, method, args, call)

    def _list(self, container: Container) -> tuple[WahaSession, ...]:
        stored = self.kept(container)
        found = []
        for name, held in stored.items():
            live = container.sessions.get(name)
            status = live.status if live is not None else WahaStatus.STOPPED
            config = _PLAIN if held.proxy is None else WahaSessionConfig(proxy=held.proxy)
            activity_ms = self._activity(name, live)
            found.append(WahaSession(name, status, me_id=held.me, activity_ms=activity_ms, config=config))
        return tuple(found)

    def _probe(self, container: Container, name: str, call: Call) -> None:
        stored, live = self._stored(container, name), container.sessions.get(name)
        self.world.counts["probes"] += 1
        if stored is None:
            call.fail(Missing("waha", "no such session"))
            return
        status = live.status if live is not None else WahaStatus.STOPPED
        hears = status is WahaStatus.WORKING and live is not None and live.deaf_at is None
        call.answer(WahaProbe(WahaSession(name, status, me_id=stored.me), hears))

    def _activity(self, name: str, live: Live | None) -> int | None:
        """Each chip has a rhythm of its own, from its name; a deaf one has none any more."""
        if live is None or live.status is not WahaStatus.WORKING:
            return None
        number = int(name[-2:], 16)
        period = 1500.0 if number % 5 == 0 else 120.0 + 60.0 * (number % 8)  # some are merely quiet
        heard = (self.world.now if live.deaf_at is None else live.deaf_at) - live.since
        return int(1000 * (START.timestamp() + live.since + period * (heard // period)))

    def _locked(self, container: Container, method: str, args: tuple[Any, ...], call: Call) -> None:
        world, now = self.world, self.world.now
        lock = (id(container), args[0])
        free_at = self.locks.get(lock, 0.0)
        if free_at > now + _LOCK_WAIT_S:
            call.fail_after(_LOCK_WAIT_S, Unavailable("waha", "500"))
            return
        begins = max(now, free_at)
        takes = world.random.uniform(0.01, 0.4) if world.random.random() < 0.98 else 33.0
        self.locks[lock] = begins + takes
        world.loop.at(begins, self._do, container, method, args, call, takes)

    def _do(self, container: Container, method: str, args: tuple[Any, ...], call: Call, takes: float) -> None:
        world = self.world
        name = args[0]
        if container.ended:
            call.fail(Unavailable("waha", "connection reset"))
            return
        call.accepted(container)
        stored = self.kept(container)
        result: Any = None
        error: DependencyError | None = None
        if method == "create_session":
            if name in stored:
                result = AlreadyExists(name)
            else:
                stored[name] = Stored(proxy_of(args[1]), world.now)
                self.databases.setdefault(world.owners.namespace(container.user), set()).add(name)
                if args[2]:
                    self._start(container, name)
                result = self._session(container, name, stored[name])
        elif method == "delete":
            stored.pop(name, None)
            self.storage.get(world.owners.namespace(container.user), {}).pop(name, None)
            container.sessions.pop(name, None)
            self.databases.get(world.owners.namespace(container.user), set()).discard(name)
        elif name not in stored:
            error = None if method == "stop" else Missing("waha", "no such session")
        else:
            live = container.sessions.get(name)
            if method == "start":
                if live is None or live.status is WahaStatus.STOPPED:
                    self._start(container, name)
            elif method == "restart":
                self._start(container, name)
            elif method == "update_session":
                stored[name].proxy, stored[name].proxy_at = proxy_of(args[1]), world.now
                if live is not None and live.status is not WahaStatus.STOPPED:
                    self._start(container, name)
            elif method == "logout":
                stored[name].paired, stored[name].me, stored[name].dead = False, None, False
                if live is not None and live.status is not WahaStatus.STOPPED:
                    self._start(container, name)
            elif live is not None:
                live.run += 1
                self._move(container, name, live, WahaStatus.STOPPED)
            result = self._session(container, name, stored[name])
        if takes > _LOCK_HOLD_S:
            call.fail_after(_LOCK_HOLD_S, Unavailable("waha", "500"))
        elif error is not None:
            call.fail(error)
        else:
            call.answer_after(takes, result)

    def _session(self, container: Container, name: str, stored: Stored) -> WahaSession:
        live = container.sessions.get(name)
        return WahaSession(name, live.status if live else WahaStatus.STOPPED, me_id=stored.me)

    # --- sessions ---------------------------------------------------------------------------------------
    def _start(self, container: Container, name: str) -> None:
        live = container.sessions.get(name)
        if live is None:
            live = container.sessions[name] = Live()
        live.run += 1
        live.stuck = container.user in self.stuck
        self._move(container, name, live, WahaStatus.STARTING)
        self.world.checker.sessions.started(container, name)
        self.world.loop.after(self.world.random.uniform(0.3, 3.0), self._up, container, name, live, live.run)

    def _up(self, container: Container, name: str, live: Live, run: int) -> None:
        stored = self._stored(container, name)
        if not self._current(container, name, live, run) or live.stuck or stored is None:
            return
        if live.status is not WahaStatus.STARTING:
            return
        if not self.world.egress.takes(container, stored.proxy):
            self.world.counts["refused_by_a_guard"] += 1
            self._move(container, name, live, WahaStatus.FAILED)
        elif not self.world.egress.carries(name):
            self.world.loop.after(_AGAIN_S, self._up, container, name, live, run)
        elif stored.dead or (stored.paired and container.user in self.refused):
            self._move(container, name, live, WahaStatus.FAILED)
        elif stored.paired:
            self._move(container, name, live, WahaStatus.WORKING)
        else:
            self._move(container, name, live, WahaStatus.SCAN_QR_CODE)
            self.world.loop.after(_QR_S, self._spent, container, name, live, run)
            self.world.owners.qr_shown(container, name, live, run)

    def _spent(self, container: Container, name: str, live: Live, run: int) -> None:
        if self._current(container, name, live, run) and live.status is WahaStatus.SCAN_QR_CODE:
            self._move(container, name, live, WahaStatus.FAILED)

    def scan(self, container: Container, name: str, live: Live, run: int) -> None:
        stored = self._stored(container, name)
        if stored is None or not self._current(container, name, live, run):
            return
        if live.status is WahaStatus.SCAN_QR_CODE:
            stored.paired = True
            stored.me = f"55119{name[-8:].lstrip('0') or '0'}@c.us"
            self._move(container, name, live, WahaStatus.WORKING)

    def unlink(self, user_id: str, name: str) -> bool:
        """The phone throws the device out."""
        stored = self.storage.get(self.world.owners.namespace(user_id), {}).get(name)
        if stored is None or not stored.paired:
            return False
        stored.paired, stored.me = False, None
        # NOWEB keeps what it has; others forget the device, so a restart shows a QR (waha.md, 12.17).
        stored.dead = int(name[-1], 16) % 3 == 0
        for container in self.containers_of(user_id):
            live = container.sessions.get(name)
            if live is not None and live.status in (WahaStatus.WORKING, WahaStatus.STARTING):
                live.run += 1
                self._move(container, name, live, WahaStatus.FAILED)
        return True

    def fail(self, user_id: str, name: str | None = None) -> bool:
        """What works or is on its way FAILED; the user's sessions, or the one named."""
        hit = False
        for container in self.containers_of(user_id):
            for held, live in container.sessions.items():
                if name in (None, held) and live.status in (WahaStatus.WORKING, WahaStatus.STARTING):
                    live.run += 1
                    self._move(container, held, live, WahaStatus.FAILED)
                    hit = True
        return hit

    def deafen(self, user_id: str, name: str, gap_s: int) -> bool:
        for container in self.containers_of(user_id):
            live = container.sessions.get(name)
            if live is not None and live.status is WahaStatus.WORKING and live.deaf_at is None:
                live.deaf_at, live.deaf_gap_s = self.world.now, gap_s
                return True
        return False

    def drop_connection(self, user_id: str, only: str | None = None) -> None:
        """WORKING to STARTING and back by itself; the user's sessions, or the one named."""
        for container in self.containers_of(user_id):
            for name, live in container.sessions.items():
                if live.status is WahaStatus.WORKING and only in (None, name):
                    live.run += 1
                    self._move(container, name, live, WahaStatus.STARTING)
                    again = self.world.random.uniform(0.5, 8.0)
                    self.world.loop.after(again, self._up, container, name, live, live.run)

    def containers_of(self, user_id: str) -> list[Container]:
        return [c for host in self.world.hosts for c in host.containers.values() if c.user == user_id]

    def _stored(self, container: Container, name: str) -> Stored | None:
        return self.kept(container).get(name)

    def kept(self, container: Container) -> dict[str, Stored]:
        """The sessions as this container's image finds them."""
        where = self.forgotten if container.image == FORGETS else self.storage
        return where.setdefault(self.world.owners.namespace(container.user), {})

    def _current(self, container: Container, name: str, live: Live, run: int) -> bool:
        return not container.ended and container.sessions.get(name) is live and live.run == run

    def _move(self, container: Container, name: str, live: Live, status: WahaStatus) -> None:
        live.status, live.since, live.deaf_at = status, self.world.now, None
        if status is WahaStatus.WORKING:
            live.worked_at = self.world.now
        self.world.trace.note("session", short(name), status.value)
        self.world.network.webhook(container.user)


def proxy_of(config: Any) -> WahaProxy | None:
    proxy = config.get("proxy")
    return None if proxy is None else WahaProxy(**proxy)


class Call:
    """One request that a daemon sent: how it ends there and what it was allowed to do."""

    def answer(self, result: Any) -> None:
        raise NotImplementedError

    def answer_after(self, seconds: float, result: Any) -> None:
        raise NotImplementedError

    def fail(self, error: DependencyError) -> None:
        raise NotImplementedError

    def fail_after(self, seconds: float, error: DependencyError) -> None:
        raise NotImplementedError

    def fail_late(self, error: DependencyError) -> None:
        """Nothing comes; the client's own timeout ends it."""
        raise NotImplementedError

    def accepted(self, container: Container) -> None:
        """The effect takes place now."""
        raise NotImplementedError
