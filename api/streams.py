"""Answers that last: how many there may be, how they stay alive, and when they end.

A stream is one or more sources, async generators that wait for news and give messages. Everything else is here:
a heartbeat when nothing was said for a while, an end with the caller's token or after a while (the client opens
it again and is checked anew), an end for who reads nothing. Messages are made when the caller takes them, so a
slow reader holds one of each source, and news that came meanwhile are one look.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, Final, TypeAlias

import msgspec
import structlog
from litestar import Request
from litestar.response import Stream
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from core.clock import Clock
from core.errors import TooManyRequests

MEDIA_TYPE: Final = "text/event-stream"
_RETRY_MS: Final = 2000  # what a browser waits before it opens an ended stream again
_TRY_AGAIN_S: Final = 10
_USER_FULL: Final = "Muitas conexões ao vivo abertas ao mesmo tempo. Feche outra aba ou conexão e tente de novo em {s} segundos."
_PROCESS_FULL: Final = "O servidor atingiu o limite de conexões ao vivo. Tente novamente em {s} segundos."

_log = structlog.get_logger("api.streams")
_encoder = msgspec.json.Encoder()


class Message(msgspec.Struct, frozen=True):
    """One server-sent event.

    Attributes:
        data: anything that JSON can say.
        id: what the client shows as `Last-Event-ID` when it comes again; None leaves the last one standing.
    """

    event: str
    data: Any
    id: str | None = None

    def encoded(self) -> bytes:
        """As the HTML standard (section 9.2) has it; JSON has no line breaks of its own."""
        number = b"" if self.id is None else f"id: {self.id}\n".encode()
        return b"%sevent: %s\ndata: %s\n\n" % (number, self.event.encode(), _encoder.encode(self.data))


class End(msgspec.Struct, frozen=True):
    """Data of the last message, `end`: why there will be no more. `reason` is stable, `detail` pt-BR."""

    reason: str
    detail: str


TOKEN_EXPIRED: Final = End("token_expired", "Token inválido ou expirado.")
RECONNECT: Final = End("reconnect", "A conexão é renovada de tempos em tempos. Conecte novamente.")

Source: TypeAlias = AsyncGenerator[Message, None]


class StreamLimits(msgspec.Struct, frozen=True):
    """Per process.

    Attributes:
        per_user, per_process: how many may be open at a time.
        life_s: after which a stream ends, so that its caller is checked anew.
        heartbeat_s: longest silence.
        send_s: longest wait for a reader to take what was sent.
    """

    per_user: int = 20
    per_process: int = 2000
    life_s: float = 300
    heartbeat_s: float = 15
    send_s: float = 20


class Streams:
    """The open streams of this process."""

    def __init__(self, limits: StreamLimits, clock: Clock) -> None:
        self.limits = limits
        self._clock = clock
        self._open: Counter[str] = Counter()
        self._ending = asyncio.Event()

    @property
    def open(self) -> int:
        """How many are open now."""
        return self._open.total()

    @contextmanager
    def seat(self, owner: str) -> Iterator[None]:
        """Leave to keep one stream open. Raises TooManyRequests (`too_many_streams`)."""
        full = None
        if self._open[owner] >= self.limits.per_user:
            full = _USER_FULL
        elif self.open >= self.limits.per_process:
            full = _PROCESS_FULL
        if full is not None:
            raise TooManyRequests(full.format(s=_TRY_AGAIN_S), after_s=_TRY_AGAIN_S, code="too_many_streams")
        self._open[owner] += 1
        try:
            yield
        finally:
            self._open[owner] -= 1
            if not self._open[owner]:
                del self._open[owner]

    async def time_is_up(self, expires_at: float | None) -> End:
        """Returns when a stream that begins now has to end; `expires_at`: when its caller's token does (Unix time)."""
        left_s = self.limits.life_s
        why = RECONNECT
        if expires_at is not None:
            token_s = expires_at - self._clock.now().timestamp()
            if token_s < left_s:
                left_s, why = token_s, TOKEN_EXPIRED
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, left_s)):
                await self._ending.wait()
                return RECONNECT
        return why

    def end_all(self) -> None:
        """The process is about to end: nobody may hold it up."""
        self._ending.set()


async def first_of(*works: Coroutine[Any, Any, Any]) -> Any:
    """Run them together until one ends; the others are cancelled and waited for.

    Returns what the first one gave, or raises what it raised.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class EventStream(Stream):
    """Server-sent events of `sources` to one caller.

    `owner`: whose seat it takes. `expires_at`: when the caller's token does (Unix time); None for who has none
    that ends.
    A source that ends, ends the stream.
    """

    def __init__(
        self, streams: Streams, owner: str, sources: Sequence[Source], expires_at: float | None
    ) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__((), headers=headers, media_type=MEDIA_TYPE)
        self._what = (streams, owner, sources, expires_at)

    def to_asgi_response(
        self,
        app: Any,  # noqa: ARG002 - the framework's signature
        request: Request[Any, Any, Any],  # noqa: ARG002
        *,
        headers: dict[str, str] | None = None,
        is_head_response: bool = False,
        **_: Any,
    ) -> ASGIResponse:
        return _Asgi(*self._what, headers={**(headers or {}), **self.headers}, is_head=is_head_response)


class _Asgi(ASGIResponse):
    _should_set_content_length = False

    def __init__(
        self,
        streams: Streams,
        owner: str,
        sources: Sequence[Source],
        expires_at: float | None,
        *,
        headers: dict[str, str],
        is_head: bool,
    ) -> None:
        super().__init__(headers=headers, media_type=MEDIA_TYPE, is_head_response=is_head)
        self._streams = streams
        self._owner = owner
        self._sources = sources
        self._expires_at = expires_at

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Before the answer begins: without a seat it is a problem like all others.
        with self._streams.seat(self._owner):
            await super().__call__(scope, receive, send)

    async def send_body(self, send: Send, receive: Receive) -> None:
        out = _Writer(send, self._streams.limits)
        try:
            await out.write(b"retry: %d\n\n" % _RETRY_MS)
            end = await first_of(
                self._streams.time_is_up(self._expires_at),
                _hung_up(receive),
                out.beat(),
                *(_pumped(source, out) for source in self._sources),
            )
            if isinstance(end, End):
                await out.write(Message("end", end).encoded())
        except _ReaderStuck:
            return  # the server cuts what is left unfinished
        except Exception:
            # Half an answer is out. Its end makes the client come again.
            _log.exception("stream_broke", owner=self._owner)
        with contextlib.suppress(_ReaderStuck):
            await out.finish()


class _ReaderStuck(Exception):
    """Whoever listens takes nothing any more."""


class _Writer:
    def __init__(self, send: Send, limits: StreamLimits) -> None:
        self._send = send
        self._limits = limits
        self._wrote_at = 0.0

    async def write(self, body: bytes) -> None:
        await self._sent(body, more=True)

    async def finish(self) -> None:
        await self._sent(b"", more=False)

    async def beat(self) -> None:
        """Says something whenever nothing was said for a while. Never returns."""
        loop = asyncio.get_running_loop()
        while True:
            left_s = self._wrote_at + self._limits.heartbeat_s - loop.time()
            if left_s <= 0:
                await self.write(b": ok\n\n")
            else:
                await asyncio.sleep(left_s)

    async def _sent(self, body: bytes, *, more: bool) -> None:
        try:
            async with asyncio.timeout(self._limits.send_s):
                await self._send({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError as error:
            raise _ReaderStuck from error
        self._wrote_at = asyncio.get_running_loop().time()


async def _pumped(source: Source, out: _Writer) -> Any:
    async with aclosing(source):
        async for message in source:
            await out.write(message.encoded())


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
