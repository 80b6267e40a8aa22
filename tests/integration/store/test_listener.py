"""News over one connection that is lost and found again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from core.store.engine import transaction
from core.store.notify import INBOX, INTENTS, OBSERVED, Item, Listener, News, Reconnected, notify
from tests.integration.store.conftest import Relay
from tests.polling import eventually

USER = "7e0e1f6c-5b7e-4f3a-9c40-0f5d2c9d1a11"


@asynccontextmanager
async def running(listener: Listener) -> AsyncIterator[list[Item]]:
    items: list[Item] = []
    task = asyncio.create_task(listener.run(items.append))
    try:
        await until(lambda: Reconnected() in items)
        yield items
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert not listener.is_listening


async def until(probe: Callable[[], object], within_s: float = 10) -> None:
    async def ask() -> bool:
        return bool(probe())

    await eventually(ask, within_s)


async def tell(engine: AsyncEngine, channel: str, payload: str = USER) -> None:
    async with transaction(engine) as connection:
        await notify(connection, channel, payload)


async def test_committed_news_is_heard_on_the_asked_channels_alone(
    database_url: str, engine: AsyncEngine
) -> None:
    async with running(Listener(database_url, [INTENTS, INBOX])) as items:
        await tell(engine, OBSERVED)
        await tell(engine, INTENTS)
        await tell(engine, INBOX, "someone")
        await until(lambda: len(items) == 3)
    assert items == [Reconnected(), News(INTENTS, USER), News(INBOX, "someone")]


async def test_what_is_rolled_back_is_not_told(database_url: str, engine: AsyncEngine) -> None:
    async with running(Listener(database_url, [INTENTS])) as items:
        async with engine.connect() as connection:
            await notify(connection, INTENTS, "never")
            await connection.rollback()
        await tell(engine, INTENTS, "last")
        await until(lambda: len(items) == 2)
    assert items == [Reconnected(), News(INTENTS, "last")]


async def test_a_connection_cut_by_the_server_is_opened_again(database_url: str, engine: AsyncEngine) -> None:
    listener = Listener(database_url, [INTENTS], application_name="the listener", retry_base_s=0.05)
    async with running(listener) as items:
        assert listener.is_listening
        for times in (2, 3):
            cut = text(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE application_name = 'the listener'"
            )
            async with transaction(engine) as connection:
                assert await connection.scalar(cut) == 1
            await until(lambda n=times: items.count(Reconnected()) == n)  # type: ignore[misc]
        await tell(engine, INTENTS)
        await until(lambda: News(INTENTS, USER) in items)


async def test_a_silent_server_is_found_out_by_the_heartbeat(
    relay: Relay, relayed_url: str, engine: AsyncEngine
) -> None:
    listener = Listener(relayed_url, [INTENTS], heartbeat_s=0.1, answer_s=0.3, retry_base_s=0.05)
    async with running(listener) as items:
        relay.freeze()
        started = time.monotonic()
        await until(lambda: not listener.is_listening)
        assert time.monotonic() - started < 2
        assert items == [Reconnected()]
        await tell(engine, INTENTS, "missed while nobody listened")
        relay.thaw()
        await until(lambda: items.count(Reconnected()) == 2)
        await tell(engine, INTENTS)
        await until(lambda: News(INTENTS, USER) in items)


async def test_an_error_of_the_reader_ends_the_listener(database_url: str, engine: AsyncEngine) -> None:
    def read(item: Item) -> None:
        if item == News(INTENTS, "boom"):
            raise ValueError("boom")

    listener = Listener(database_url, [INTENTS])
    task = asyncio.create_task(listener.run(read))
    await until(lambda: listener.is_listening)
    await tell(engine, INTENTS, "boom")
    with pytest.raises(ValueError, match="boom"):
        await asyncio.wait_for(task, 10)
