"""The provider at work: knocks, tunnels, and who answers at their other end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from sandbox.provider.exits import Exits
from sandbox.provider.gates import HEAD_LIMIT, Gate, Nonsense, gate
from sandbox.provider.journal import Direction, Journal
from sandbox.provider.knobs import Knobs, Refusal

WHATSAPP: Final = ("whatsapp.net", "whatsapp.com")
ECHO_HOST: Final = "echo.invalid"  # no name of that kind exists (RFC 2606), so nobody else can answer
ECHO_URL: Final = f"http://{ECHO_HOST}/"
PASSWORD: Final = "SANDBOX_PROVIDER_PASSWORD"  # noqa: S105  the variable that names it
_CHUNK: Final = 64 * 1024
_KNOCK_S: Final = 10.0
_BACKLOG: Final = 1024


class Provider:
    """Listens on host:port from `start` to `stop`. `accounts`: password by login."""

    def __init__(self, accounts: Mapping[str, str], journal: Journal, *, host: str, port: int) -> None:
        self.knobs = Knobs()
        self._accounts = accounts
        self._journal = journal
        self._exits = Exits()
        self._place = (host, port)
        self._server: asyncio.Server | None = None
        self._knocks: set[asyncio.Task[None]] = set()
        self._open: dict[int, str] = {}
        self._last = 0

    @property
    def port(self) -> int:
        return self._place[1]

    @property
    def tunnels(self) -> dict[int, str]:
        """User names of what is open, by number."""
        return dict(self._open)

    async def start(self) -> None:
        """Raises OSError when the port cannot be had."""
        self._server = await asyncio.start_server(
            self._answered, *self._place, limit=HEAD_LIMIT, backlog=_BACKLOG, reuse_address=True
        )
        self._place = (self._place[0], self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Nobody listens any more, and what is open breaks."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._knocks):
            task.cancel()
        await asyncio.gather(*self._knocks, return_exceptions=True)

    async def turn(self, body: dict[str, object]) -> None:
        """Turn knobs. Raises BadKnob."""
        self.knobs.change(body)
        self._exits.told = self.knobs.exits
        if self.knobs.dead and self._server is not None:
            await self.stop()
        elif not self.knobs.dead and self._server is None:
            await self.start()

    def exit_ip(self, user: str) -> str:
        return self._exits.of(user)

    async def _answered(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._knocks.add(task)
        try:
            # Errors of the connection are the other side's, who has gone.
            with contextlib.suppress(OSError, EOFError, Nonsense, TimeoutError, asyncio.LimitOverrunError):
                await self._knocked(reader, writer)
                writer.close()
        except asyncio.CancelledError:
            # By `stop`; the stream's own callback would take it for a failure.
            pass
        finally:
            if not writer.is_closing():
                writer.transport.abort()
            self._knocks.discard(task)

    async def _knocked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.knobs.silent:
            await asyncio.Event().wait()
        async with asyncio.timeout(_KNOCK_S + self.knobs.slow_s):
            came = await gate(reader, writer)
            user, password = await came.credentials()
            await asyncio.sleep(self.knobs.slow_s)
            if not self._is_right(user, password):
                await self._refused(came, user, "", Refusal.PASSWORD)
                return
            why = self.knobs.refusal(user)
            if why is Refusal.PASSWORD:
                await self._refused(came, user, "", why)
                return
            host, port = await came.target()
            target = f"{host}:{port}"
            why = why or self._why_not(host, port)
            if why is not None:
                await self._refused(came, user, target, why)
                return
            await came.grant()
        await self._tunnel(reader, writer, user, target, came.scheme)

    def _is_right(self, user: str, password: str) -> bool:
        login, dash, label = user.rpartition("-")
        return bool(dash and label) and self._accounts.get(login) == password

    def _why_not(self, host: str, port: int) -> Refusal | None:
        if self.knobs.most is not None and len(self._open) >= self.knobs.most:
            return Refusal.FULL
        if host == ECHO_HOST:
            return None if port == 80 else Refusal.NOWHERE
        if not any(host == name or host.endswith(f".{name}") for name in WHATSAPP):
            return Refusal.NOWHERE
        return None

    async def _refused(self, came: Gate, user: str, target: str, why: Refusal) -> None:
        self._journal.write("refused", 0, user, scheme=came.scheme, target=target, why=why.value)
        await came.refuse(why)

    async def _tunnel(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        user: str,
        target: str,
        scheme: str,
    ) -> None:
        self._last += 1
        number, exit_ip = self._last, self._exits.of(user)
        self._open[number] = user
        self._journal.write("open", number, user, scheme=scheme, target=target, exit_ip=exit_ip)

        def note(direction: Direction, amount: int) -> None:
            self._journal.write("chunk", number, user, direction=direction, bytes=amount)

        try:
            if target == f"{ECHO_HOST}:80":
                await _tell(reader, writer, exit_ip, note)
            else:
                await _say_back(reader, writer, note)
        finally:
            del self._open[number]
            self._journal.write("close", number, user)


Note = Callable[[Direction, int], None]


async def _say_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: Note) -> None:
    """WhatsApp, as far as a tunnel can tell: says everything back until the other side has ended."""
    while data := await reader.read(_CHUNK):
        note("out", len(data))
        writer.write(data)
        await writer.drain()
        note("in", len(data))


async def _tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, exit_ip: str, note: Note) -> None:
    """One HTTP request, answered with the address that it came from."""
    head = await reader.readuntil(b"\r\n\r\n")
    note("out", len(head))
    body = f"{exit_ip}\n"
    said = (
        f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
        f"Connection: close\r\n\r\n{body}"
    ).encode()
    writer.write(said)
    await writer.drain()
    note("in", len(said))


@asynccontextmanager
async def running_provider(
    accounts: Mapping[str, str], journal: Journal, *, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Provider]:
    """A provider while the block runs. Raises OSError."""
    provider = Provider(accounts, journal, host=host, port=port)
    await provider.start()
    try:
        yield provider
    finally:
        await provider.stop()
        journal.close()
