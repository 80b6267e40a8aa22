"""How a task that is needed no longer is ended, and how it ends itself."""

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


def end_if_told() -> None:
    """Raise CancelledError in a task that was told to end, and whose cleaning up failed on the way.

    What that raised has taken the place of the cancellation, which comes only once: whoever passes over errors
    to keep a task alive would keep this one for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
