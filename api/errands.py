"""Work that goes on behind an answer and ends with the application."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Errands:
    """Tasks that nobody waits for. The loop alone would hold them so loosely that they may vanish."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[object]] = set()

    def run(self, errand: Coroutine[Any, Any, object]) -> None:
        """Begin it. It tells of its own failures."""
        task = asyncio.create_task(errand)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Cancel what still runs, and wait for its end."""
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
