"""Ending a task: whoever is told to end meanwhile ends too."""

from __future__ import annotations

import asyncio

import pytest

from daemon.ended import ended


async def _wait() -> None:
    await asyncio.Event().wait()


async def test_the_task_is_over() -> None:
    task = asyncio.create_task(_wait())
    await asyncio.sleep(0)
    await ended(task)
    assert task.cancelled()


async def test_what_it_raised_is_raised() -> None:
    async def broken() -> None:
        raise ValueError("a bug")

    task = asyncio.create_task(broken())
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="a bug"):
        await ended(task)


async def test_a_cancellation_at_that_moment_is_the_callers_own() -> None:
    task = asyncio.create_task(_wait())
    await asyncio.sleep(0)
    caller = asyncio.create_task(ended(task))
    await asyncio.sleep(0)  # it waits for the end of `task`, which comes with the next round
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert caller.cancelled()
