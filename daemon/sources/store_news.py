"""News from the store: somebody wants something else (`intents`), or a container reported (`inbox`)."""

from __future__ import annotations

from collections.abc import Callable

from core.store.notify import INBOX, Item, Listener, Reconnected
from daemon.mail import Mailroom
from daemon.sources.everyone import Everyone
from daemon.workqueue import WorkQueue


class StoreNews:
    """Source `store`: one LISTEN connection that comes back by itself."""

    name = "store"

    def __init__(self, listener: Listener, queue: WorkQueue, everyone: Everyone, mailroom: Mailroom) -> None:
        self._listener = listener
        self._queue = queue
        self._everyone = everyone
        self._mailroom = mailroom

    async def listen(self, alive: Callable[[], None]) -> None:
        def hear(item: Item) -> None:
            alive()
            if isinstance(item, Reconnected):
                self._everyone.relist()
                return
            if item.channel == INBOX:
                self._mailroom.expect(item.payload)
            self._queue.put(item.payload)

        await self._listener.run(hear)
