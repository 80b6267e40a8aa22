from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from api.streams import RECONNECT, TOKEN_EXPIRED, EventStream, Message, StreamLimits, Streams, first_of
from core.clock import SystemClock
from core.errors import TooManyRequests

CLOCK = SystemClock()


def streams(**limits: Any) -> Streams:
    return Streams(StreamLimits(**limits), CLOCK)


class Caller:
    """The server's side of one request: what was sent, and when the caller goes."""

    def __init__(self, *, takes: int | None = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self._takes = takes
        self._news = asyncio.Event()

    @property
    def body(self) -> str:
        return b"".join(part.get("body", b"") for part in self.sent).decode()

    async def send(self, message: Any) -> None:
        if self._takes is not None and len(self.sent) >= self._takes:
            await asyncio.Event().wait()
        self.sent.append(message)
        self._news.set()

    async def until(self, text: str, times: int = 1) -> None:
        async with asyncio.timeout(5):
            while self.body.count(text) < times:
                await self._news.wait()
                self._news.clear()

    async def receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def open(self, stream: EventStream) -> None:
        answer = stream.to_asgi_response(None, None)  # type: ignore[arg-type]
        async with asyncio.timeout(5):
            await answer({}, self.receive, self.send)  # type: ignore[arg-type]


async def counting(upto: int, closed: list[str] | None = None) -> AsyncGenerator[Message, None]:
    try:
        for number in range(upto):
            yield Message("event", {"n": number}, id=str(number))
        await asyncio.Event().wait()
    finally:
        if closed is not None:
            closed.append("closed")


async def test_messages_are_written_as_the_standard_has_them() -> None:
    caller, closed = Caller(), list[str]()

    async def once() -> AsyncGenerator[Message, None]:
        yield Message("status", {"text": "a\nb"})
        yield Message("event", {"n": 1}, id="7")

    await caller.open(EventStream(streams(), "ana", [once()], None))
    assert caller.sent[0]["status"] == 200
    assert (b"content-type", b"text/event-stream; charset=utf-8") in caller.sent[0]["headers"]
    assert caller.body == (
        'retry: 2000\n\nevent: status\ndata: {"text":"a\\nb"}\n\nid: 7\nevent: event\ndata: {"n":1}\n\n'
    )
    assert caller.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert closed == []


async def test_a_caller_who_goes_ends_the_stream_and_its_sources() -> None:
    caller, closed, all_ = Caller(), list[str](), streams()
    task = asyncio.create_task(caller.open(EventStream(all_, "ana", [counting(2, closed)], None)))
    await caller.until('{"n":1}')
    assert all_.open == 1
    caller.gone.set()
    await task
    assert (closed, all_.open) == (["closed"], 0)


async def test_silence_is_broken_by_a_comment() -> None:
    caller = Caller()
    task = asyncio.create_task(
        caller.open(EventStream(streams(heartbeat_s=0.02), "ana", [counting(0)], None))
    )
    await caller.until(": ok\n\n", times=3)
    caller.gone.set()
    await task


@pytest.mark.parametrize(("life_s", "token_s", "why"), [(0.05, 60, RECONNECT), (60, 0.05, TOKEN_EXPIRED)])
async def test_it_ends_in_time_and_says_why(life_s: float, token_s: float, why: Any) -> None:
    caller = Caller()
    expires_at = CLOCK.now().timestamp() + token_s
    await caller.open(EventStream(streams(life_s=life_s), "ana", [counting(1)], expires_at))
    assert caller.body.endswith(f"event: end\ndata: {msgspec.json.encode(why).decode()}\n\n")
    assert caller.sent[-1]["more_body"] is False


async def test_a_process_that_ends_ends_its_streams() -> None:
    caller, all_ = Caller(), streams()
    task = asyncio.create_task(caller.open(EventStream(all_, "ana", [counting(1)], None)))
    await caller.until('{"n":0}')
    all_.end_all()
    await task
    assert "event: end" in caller.body


async def test_who_takes_nothing_is_left_and_nothing_piles_up() -> None:
    made = 0

    async def endless() -> AsyncGenerator[Message, None]:
        nonlocal made
        while True:
            made += 1
            yield Message("event", made)

    caller, all_ = Caller(takes=5), streams(send_s=0.05)
    await caller.open(EventStream(all_, "ana", [endless()], None))
    assert made == 4  # a head, a retry hint, three taken, one in the hand
    assert all_.open == 0


async def test_a_source_that_breaks_ends_the_answer_properly() -> None:
    async def broken() -> AsyncGenerator[Message, None]:
        yield Message("event", 1)
        raise RuntimeError("planted")

    caller = Caller()
    await caller.open(EventStream(streams(), "ana", [broken()], None))
    assert caller.sent[-1]["more_body"] is False


def test_seats_are_counted_per_user_and_in_all() -> None:
    all_ = streams(per_user=2, per_process=3)
    with all_.seat("ana"), all_.seat("ana"):
        with pytest.raises(TooManyRequests, match="Feche outra aba") as refused, all_.seat("ana"):
            pass
        assert refused.value.code == "too_many_streams"
        with all_.seat("bia"):
            assert all_.open == 3
            with pytest.raises(TooManyRequests, match="O servidor atingiu"), all_.seat("caio"):
                pass
        with all_.seat("caio"):
            pass
    assert all_.open == 0


async def test_a_refused_stream_sends_nothing() -> None:
    caller, all_ = Caller(), streams(per_user=1)
    with all_.seat("ana"), pytest.raises(TooManyRequests):
        await caller.open(EventStream(all_, "ana", [counting(1)], None))
    assert caller.sent == []


async def test_the_first_to_end_cancels_the_others() -> None:
    ended = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("waits")

    async def gives() -> str:
        await asyncio.sleep(0)
        return "news"

    assert await first_of(waits(), gives()) == "news"
    assert ended == ["waits"]
