"""What must be over before anything else is ended."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from sandbox.up.together import in_thread


async def test_the_result_and_the_failure_of_the_thread_come_back() -> None:
    assert await in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 7, 0)


async def test_a_cancelled_caller_goes_on_only_when_the_thread_is_done() -> None:
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        assert may_end.wait(10)
        ended.set()

    calling = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(began.wait, 10)
    calling.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not calling.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert ended.is_set()


async def test_a_failure_that_nobody_waits_for_is_not_printed(caplog: pytest.LogCaptureFixture) -> None:
    began, may_end = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        assert may_end.wait(10)
        raise ConnectionError("the server is being ended")

    calling = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(began.wait, 10)
    calling.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with caplog.at_level(logging.DEBUG), pytest.raises(asyncio.CancelledError):
        await calling
    assert caplog.text == ""
