"""The store as a daemon reaches it: every coroutine is a call over the wire, and its news come by another."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from core.errors import DependencyError
from core.store.notify import Item, Reconnected
from tests.simulation.network import STORE_TIMEOUT_S, Wire


class StoreWire:
    """The store as this daemon reaches it. Methods are made below, one for each of the store's."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._sent = _SentAt()
        self._store = wire.world.store.seen_by(self._sent)


class _SentAt:
    """A clock that reads what the daemon's own clock read when it sent its request."""

    at = 0.0

    def monotonic(self) -> float:
        return self.at


def _store_method(name: str) -> Any:
    # The future itself: a coroutine around it would be a task more where calls go side by side.
    def call(self: StoreWire, *args: Any, **options: Any) -> asyncio.Future[Any]:
        wire, sent = self._wire, self._sent
        daemon = wire.daemon
        sent_at = daemon.clock.monotonic()
        method = getattr(self._store, name)

        def execute() -> Any:
            sent.at = sent_at
            checker = wire.world.checker
            if name in checker.before:
                checker.before[name](daemon, args)
            try:
                method(*args, **options).send(None)
            except StopIteration as stop:
                result = stop.value
            else:
                raise AssertionError(f"the store in memory awaited something in {name}")
            if name in checker.after:
                checker.after[name](daemon, args, result)
            return result

        return wire.request("postgres", name, execute, STORE_TIMEOUT_S)

    call.__name__ = name
    return call


def give_methods(store: type) -> None:
    """Every coroutine of the store becomes a call over the wire."""
    for name in dir(store):
        if not name.startswith("_") and asyncio.iscoroutinefunction(getattr(store, name)):
            setattr(StoreWire, name, _store_method(name))


def run_now(coroutine: Any) -> Any:
    """What a coroutine returns that awaits nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the store in memory awaited something")


class ListenerWire:
    """`core.store.notify.Listener`."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.is_listening = False

    async def run(self, on_item: Callable[[Item], None]) -> None:
        wire = self._wire
        while True:
            try:
                await wire.request("postgres", "listen", lambda: None, STORE_TIMEOUT_S)
            except DependencyError:
                await wire.daemon.clock.sleep(2.0)
                continue
            wire.hear, wire.hear_context = on_item, contextvars.copy_context()
            self.is_listening = True
            on_item(Reconnected())
            wire.hear_ended = wire.world.loop.create_future()
            await wire.hear_ended
            self.is_listening = False
            wire.hear = None
