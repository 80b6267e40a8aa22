"""News between processes. It only ever says *look again*: who misses it lists again and loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final, Never, TypeAlias

import asyncpg
import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.domain.backoff import delay
from core.store.engine import DRIVER_ERRORS, Timeouts, connect_arguments, parse_url, reading, translate

# Payload of all: a user id.
INTENTS: Final = "intents"  # somebody wants something else
OBSERVED: Final = "observed"  # a pass wrote something that people or caches see
INBOX: Final = "inbox"  # a webhook was recorded
LOOK_INS: Final = "look_ins"  # somebody looks into a container, and nobody samples it
LOOKED: Final = "looked"  # there is a newer sample of it
FLEET: Final = "fleet"  # something of the whole fleet changed; its payload says nothing

_NOTIFY: Final = text("SELECT pg_notify(:channel, :payload)")
_NOTIFY_EACH: Final = text(
    "SELECT pg_notify(:channel, payload) FROM unnest(CAST(:payloads AS text[])) AS payload"
)
_log = structlog.get_logger(__name__)


async def notify(connection: AsyncConnection, channel: str, user_id: str) -> None:
    """Tell listeners of `channel` once this transaction commits; nothing is sent when it rolls back."""
    await connection.execute(_NOTIFY, {"channel": channel, "payload": user_id})


async def notify_each(engine: AsyncEngine, channel: str, payloads: Iterable[str]) -> None:
    """Tell listeners of `channel` each of `payloads`, at once. Raises Unavailable."""
    async with reading(engine) as connection:
        await connection.execute(_NOTIFY_EACH, {"channel": channel, "payloads": list(payloads)})


class News(msgspec.Struct, frozen=True):
    """Something changed for the user in `payload`."""

    channel: str
    payload: str


class Reconnected(msgspec.Struct, frozen=True):
    """The listener hears from now on, for the first time or again: list everything once."""


Item: TypeAlias = News | Reconnected


class Listener:
    """One connection of a process, outside its pool, that listens.

    What is committed after `Reconnected` was given is heard, or another `Reconnected` follows: whoever
    lists at each of them misses nothing. While `is_listening` is false nothing is heard, so readers poll.
    """

    def __init__(
        self,
        database_url: str,
        channels: Iterable[str],
        *,
        application_name: str = "wahafleet listen",
        heartbeat_s: float = 5.0,
        answer_s: float = 2.0,
        retry_base_s: float = 0.1,
        retry_cap_s: float = 5.0,
    ) -> None:
        """`heartbeat_s`: how often the connection is tried; it is given up after `answer_s` without answer.

        A lost connection is opened again after `retry_base_s`, doubled with each failure up to
        `retry_cap_s`. Raises Rejected on an unreadable URL.
        """
        url = parse_url(database_url)
        _, address = url.get_dialect()().create_connect_args(url)
        limits = Timeouts(connect_s=answer_s, statement_s=0, command_s=answer_s)
        self._connect: dict[str, Any] = {**address, **connect_arguments(application_name, limits)}
        self._channels = tuple(channels)
        self._heartbeat_s = heartbeat_s
        self._retry = (retry_base_s, retry_cap_s)
        self._failures = 0
        self._listening = False

    @property
    def is_listening(self) -> bool:
        return self._listening

    async def run(self, on_item: Callable[[Item], None]) -> Never:
        """Listen until cancelled, and call `on_item` for each item in order.

        `on_item` runs on the event loop and must return at once: put a key on a queue, set an event. An
        error that it raises ends `run`.
        """
        while True:
            try:
                await self._listen(on_item)
            except DRIVER_ERRORS as error:
                # One line a failure: readers poll meanwhile, so this says why things got slower.
                _log.warning("listener lost", channels=self._channels, reason=translate(error).message)
            self._failures += 1
            await asyncio.sleep(delay(self._failures, *self._retry))

    async def _listen(self, on_item: Callable[[Item], None]) -> None:
        """One connection from its opening to its end. Returns when the server closed it."""
        connection = await asyncpg.connect(**self._connect)
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def hear(_connection: object, _pid: int, channel: str, payload: str) -> None:
            if ended.done():
                return
            try:
                on_item(News(channel, payload))
            except Exception as error:  # given on to whoever runs us: the driver would only log it
                ended.set_exception(error)

        def end(_connection: object) -> None:
            if not ended.done():
                ended.set_result(None)

        try:
            connection.add_termination_listener(end)
            for channel in self._channels:
                await connection.add_listener(channel, hear)
            self._listening = True
            self._failures = 0
            on_item(Reconnected())
            await self._beat(connection, ended)
        finally:
            self._listening = False
            connection.terminate()

    async def _beat(self, connection: asyncpg.Connection, ended: asyncio.Future[None]) -> None:
        # Without it a server that vanished without a word would never be missed: nobody writes to it.
        while True:
            done, _ = await asyncio.wait({ended}, timeout=self._heartbeat_s)
            if done:
                ended.result()
                raise ConnectionError("the server closed the connection")
            await connection.execute("SELECT 1")
