"""Everything between a daemon and the rest: how long a call takes, whether it arrives, whether its answer does.

A request lands in the world's own context, so what a killed daemon sent still takes effect.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from core.domain.names import JOB_PREFIX, VARIABLE_PREFIX
from core.errors import DependencyError, Unavailable
from core.store.notify import INBOX, INTENTS, Item, News
from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.daemons import Daemon

NOMAD_TIMEOUT_S = 10.0
STORE_TIMEOUT_S = 5.0
STORAGE_TIMEOUT_S = 10.0
CONSUL_TIMEOUT_S = 10.0
_USER_AT = len(VARIABLE_PREFIX) + len(JOB_PREFIX)

Seen: TypeAlias = Callable[[Any, DependencyError | None], None]


class Fate:
    """What happens to the next few calls. `kind`: `before`, `lost`, `slow`; `calls`: those it may meet."""

    def __init__(self, kind: str, system: str, left: int, calls: frozenset[str] | None = None) -> None:
        self.kind = kind
        self.system = system
        self.left = left
        self.calls = calls


class Network:
    """Systems that are `down`, calls that meet a `Fate`, news that are dropped or doubled."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.down: set[str] = set()
        self.back_at: dict[str, float] = {}  # when each came back last
        self.fates: list[Fate] = []
        self.drop_news = 0.0
        self.double_news = 0.0
        self.drop_hooks = 0.05
        self._catalog_told = False

    def fate(self, daemon: Daemon, system: str, call: str) -> str | None:
        if system in self.down or system in daemon.cut_from:
            return "before"
        for fate in self.fates:
            if fate.system == system and (fate.calls is None or call in fate.calls):
                fate.left -= 1
                if fate.left <= 0:
                    self.fates.remove(fate)
                return fate.kind
        return None

    def troubled(self, daemon: Daemon) -> bool:
        return bool(self.fates or self.down or daemon.cut_from)

    # --- news -------------------------------------------------------------------------------------------
    def scheduler_news(self, user_id: str) -> None:
        random = self.world.random
        for daemon in self.world.daemons:
            stream = daemon.wire.stream
            if stream is None:
                continue
            if self.drop_news and random.random() < self.drop_news:
                self.world.counts["news_dropped"] += 1
                continue
            stream.put(user_id)
            if self.double_news and random.random() < self.double_news:
                self.world.counts["news_doubled"] += 1
                self.world.loop.after(random.uniform(0.5, 5.0), stream.put, user_id)

    def catalog_news(self) -> None:
        if not self._catalog_told:
            self._catalog_told = True
            self.world.loop.after(0.15, self._tell_catalog)

    def _tell_catalog(self) -> None:
        self._catalog_told = False
        for daemon in self.world.daemons:
            waiter = daemon.wire.catalog_waiter
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def store_news(self, channel: str, user_id: str) -> None:
        if channel not in (INTENTS, INBOX):
            return
        random, loop = self.world.random, self.world.loop
        for daemon in self.world.daemons:
            hear = daemon.wire.hear
            if hear is None:
                continue
            if self.drop_news and random.random() < self.drop_news:
                self.world.counts["news_dropped"] += 1
                continue
            loop.call_later(0.005, hear, News(channel, user_id), context=daemon.wire.hear_context)

    def webhook(self, user_id: str) -> None:
        """A container says that something changed; some never arrive, some arrive twice."""
        random, loop = self.world.random, self.world.loop
        if random.random() < self.drop_hooks:
            return
        loop.after(random.uniform(0.02, 0.5), self._hook, user_id)
        if self.double_news and random.random() < self.double_news:
            loop.after(random.uniform(0.5, 5.0), self._hook, user_id)

    def _hook(self, user_id: str) -> None:
        if "postgres" not in self.down and user_id in self.world.store.containers:
            self.world.store.send_mail(user_id)


class Stream:
    """One connection to Nomad's event stream."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._pending: dict[str, None] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._timer = False
        self.broken = False

    def put(self, user_id: str) -> None:
        self._pending[user_id] = None
        if not self._timer:
            self._timer = True
            self.world.loop.after(0.03, self._wake)

    def cut(self) -> None:
        self.broken = True
        self._wake()

    def _wake(self) -> None:
        self._timer = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> frozenset[str]:
        while True:
            if self.broken:
                raise Unavailable("nomad", "event stream ended")
            if self._pending:
                users, self._pending = frozenset(self._pending), {}
                return users
            self._waiter = self.world.loop.create_future()
            await self._waiter


class Wire:
    """One daemon's connections to everything."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.world = daemon.world
        self.stream: Stream | None = None
        self.catalog_waiter: asyncio.Future[None] | None = None
        self.hear: Callable[[Item], None] | None = None
        self.hear_context: contextvars.Context | None = None
        self.hear_ended: asyncio.Future[None] | None = None

    def request(
        self,
        system: str,
        call: str,
        execute: Callable[[], Any],
        timeout_s: float,
        *,
        seen: Seen | None = None,
        then: Callable[[], None] | None = None,
    ) -> asyncio.Future[Any]:
        """Send it; `execute` runs in the world when it lands, `then` a moment later, before the reply;
        `seen` gets what the daemon will see."""
        world, daemon = self.world, self.daemon
        loop, random, network = world.loop, world.random, world.network
        future: asyncio.Future[Any] = asyncio.Future(loop=loop)
        if daemon.process.dead or daemon.closing:
            return future
        troubled = network.fates or network.down or daemon.cut_from
        fate = network.fate(daemon, system, call) if troubled else None
        delay = 0.002 + 0.018 * random.random()
        if fate is None and then is None:
            loop.surely(delay, _answer, future, execute, seen)
            return future
        if fate == "slow":
            delay = random.uniform(0.1, 0.9) * timeout_s
        loop.surely(delay, self._land, future, system, call, execute, fate, timeout_s, delay, seen, then)
        return future

    async def tell(self, channel: str, keys: Iterable[str]) -> None:
        """NOTIFY, once for each key."""
        named = tuple(keys)

        def execute() -> None:
            for key in named:
                self.world.network.store_news(channel, key)

        await self.request("postgres", "notify", execute, STORE_TIMEOUT_S)

    def _land(
        self,
        future: asyncio.Future[Any],
        system: str,
        call: str,
        execute: Callable[[], Any],
        fate: str | None,
        timeout_s: float,
        delay: float,
        seen: Seen | None,
        then: Callable[[], None] | None,
    ) -> None:
        result: Any = None
        error: DependencyError | None = None
        if fate == "before":
            error = Unavailable(system, "no connection")
        else:
            try:
                result = execute()
            except DependencyError as raised:
                error = raised
            if then is not None and error is None:
                gap = 0.001 + 0.02 * self.world.random.random()
                self.world.loop.surely(
                    gap, self._land, future, system, call, then, fate, timeout_s, delay + gap, seen, None
                )
                return
        if fate == "lost":
            self.world.trace.note("lost-reply", call)
            error = Unavailable(system, "connection reset")
        elif fate == "slow" and self.world.random.random() < 0.4:
            error = Unavailable(system, "no answer in time", code="timeout")
            self.world.loop.surely(timeout_s - delay, end, future, None, error, seen)
            return
        end(future, result, error, seen)


def _answer(future: asyncio.Future[Any], execute: Callable[[], Any], seen: Seen | None) -> None:
    """Nearly every request: it lands, nothing befalls it, and the reply is there."""
    try:
        result = execute()
    except DependencyError as error:
        end(future, None, error, seen)
        return
    if seen is not None:
        seen(result, None)
    if not future.done():
        future.set_result(result)


def end(
    future: asyncio.Future[Any], result: Any, error: DependencyError | None, seen: Seen | None = None
) -> None:
    """The reply reaches whoever waits for it; `seen` hears of it first."""
    if seen is not None:
        seen(result, error)
    if not future.done():
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
            future.exception()  # nobody may be left to read it
