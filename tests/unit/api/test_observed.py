from __future__ import annotations

import asyncio
from typing import cast

import pytest

from api import observed
from api.observed import ObservedHub, stand_in
from core.store.notify import Listener


class FakeListener:
    is_listening = True


async def test_who_waits_looks_every_second_only_while_nobody_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observed, "POLL_S", 0.02)
    listener, hub = FakeListener(), ObservedHub()
    task = asyncio.create_task(stand_in(cast(Listener, listener), hub))
    with hub.subscribed("ana") as news:
        await asyncio.sleep(0.1)
        assert not news.is_set()
        listener.is_listening = False
        async with asyncio.timeout(2):
            await news.wait()
        listener.is_listening = True
        await asyncio.sleep(0.05)
        news.clear()
        await asyncio.sleep(0.1)
        assert not news.is_set()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
