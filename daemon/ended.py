"""How a task that is needed no longer is ended."""

from __future__ import annotations

import asyncio
from typing import Any


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancel it and wait for its end; raises what it raised.

    To await it and pass over its CancelledError would pass over our own as well, should we be cancelled at that
    moment: a daemon that is told to end would then go on.
    """
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
