"""Webhooks of one container that come together are read, kept and told together, with one statement for each step.

Ten sessions of a user change their codes in one moment and each tells it; who polls meanwhile would take turns with
each of them. A read begins after the webhooks that wait for it came, and each is answered once it is kept.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from api.hook_events import inbox_event
from api.qr_news import QrNews
from api.vault import Vault
from core.crypto import signature_matches
from core.errors import InvalidInput
from core.store import webhooks
from core.store.engine import Engine
from core.store.webhooks import InboxEvent

# Containers whose webhooks are handled at the same time.
AT_ONCE: Final = 4


class Unsigned(Exception):
    """The signature is not the container's, or there is no such container."""


class _Hook(msgspec.Struct, eq=False):
    raw: bytes
    signature: str
    kept: asyncio.Future[bool]

    def fail(self, error: Exception) -> None:
        if not self.kept.done():
            self.kept.set_exception(error)


class Hooks:
    """Takes webhooks in."""

    def __init__(self, engine: Engine, vault: Vault, news: QrNews) -> None:
        self._engine = engine
        self._vault = vault
        self._news = news
        self._free = asyncio.Semaphore(AT_ONCE)
        self._waiting: dict[str, list[_Hook]] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    async def received(self, user_id: str, raw: bytes, signature: str) -> bool:
        """Keep the webhook of the user's container; False when it was kept before.

        Raises Unsigned, InvalidInput on what is no event, Unavailable. Who stops waiting takes nothing from the others.
        """
        kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user_id, []).append(_Hook(raw, signature, kept))
        if user_id not in self._running:
            self._running[user_id] = asyncio.create_task(self._run(user_id))
        return await kept

    async def close(self) -> None:
        """End what is under way; whoever waits is cancelled."""
        running = tuple(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, user_id: str) -> None:
        batch: list[_Hook] = []
        try:
            while user_id in self._waiting:
                async with self._free:
                    batch = self._waiting.pop(user_id)
                    await self._handle(user_id, batch)
        finally:
            del self._running[user_id]
            for hook in (*batch, *self._waiting.pop(user_id, ())):
                hook.kept.cancel()

    async def _handle(self, user_id: str, batch: list[_Hook]) -> None:
        try:
            events = await self._read(user_id, batch)
            if not events:
                return
            new = await webhooks.record(self._engine, user_id, [event for _, event in events])
            await self._news.heard(
                user_id, [(event, one) for (_, event), one in zip(events, new, strict=True)]
            )
        except Exception as error:
            for hook in batch:
                hook.fail(error)
            return
        for (hook, _), one in zip(events, new, strict=True):
            if not hook.kept.done():
                hook.kept.set_result(one)

    async def _read(self, user_id: str, batch: list[_Hook]) -> list[tuple[_Hook, InboxEvent]]:
        """The events of those that are signed; the others are told so."""
        sealed = await webhooks.sealed_hook_key(self._engine, user_id)
        key = None if sealed is None else self._vault.open(user_id, sealed)
        events = []
        for hook in batch:
            if key is None or not signature_matches(key, hook.raw, hook.signature):
                hook.fail(Unsigned())
                continue
            try:
                events.append((hook, inbox_event(hook.raw)))
            except InvalidInput as error:
                hook.fail(error)
        return events
