"""What the guard has handed to the kernel and the upstream has not taken: none of it arrives once a lease has ended.

The upstream here closes its window: it reads nothing. Judged by its own kernel's count of bytes that arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import signal
import socket
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from core.domain.guard_wire import Upstream
from egress.relay import Tunnel
from tests.integration.egress.conftest import LOGIN, PASSWORD, World, credential, world
from tests.integration.egress.doubles import Chip, knock
from tests.integration.egress.process import guard_process, http_api
from tests.unit.egress.fakes import ALLOCATION, FakeApi, route

SHORT = {"TTL_S": "3", "RENEW_S": "0.3", "MARGIN_S": "1.6"}
_TARGET = "echo.whatsapp.net"


class Deaf:
    """A SOCKS5 server that takes one tunnel and then reads nothing of it, behind the smallest window there is."""

    def __init__(self) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(1)
        self.sock.setblocking(False)
        self.port: int = self.sock.getsockname()[1]
        self.peer: socket.socket | None = None
        self.greeted = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self.peer, _ = await loop.sock_accept(self.sock)
        await self._read(4)
        await loop.sock_sendall(self.peer, b"\x05\x02")
        await self._read(3 + len(LOGIN) + len(PASSWORD))
        await loop.sock_sendall(self.peer, b"\x01\x00")
        await self._read(5 + len(_TARGET) + 2)
        await loop.sock_sendall(self.peer, b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
        self.greeted.set()

    async def _read(self, count: int) -> None:
        assert self.peer is not None
        got = b""
        while len(got) < count:
            got += await asyncio.get_running_loop().sock_recv(self.peer, count - len(got))

    def arrived(self) -> int:
        """Bytes that came through the network, read or not (tcpi_bytes_received)."""
        assert self.peer is not None
        info = self.peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return int(struct.unpack_from("Q", info, 128)[0])

    async def stuck(self) -> int:
        """What has arrived once nothing more does: the window is closed."""
        before = -1
        while before != (now := self.arrived()):
            before = now
            await asyncio.sleep(0.3)
        return now

    async def drained(self) -> int:
        """Open the window and read until nothing comes; what has arrived in all."""
        assert self.peer is not None
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError, ConnectionError):
            while True:
                async with asyncio.timeout(0.7):
                    if not await loop.sock_recv(self.peer, 1 << 20):
                        break
        return self.arrived()

    def close(self) -> None:
        self.sock.close()
        if self.peer is not None:
            self.peer.close()


@asynccontextmanager
async def deaf() -> AsyncIterator[Deaf]:
    server = Deaf()
    running = asyncio.create_task(server.run())
    try:
        yield server
        await running
    finally:
        running.cancel()
        server.close()


async def pour(chip: Chip, amount: int) -> None:
    """Send, and do not wait for it to be taken."""
    chip.writer.write(b"x" * amount)
    await asyncio.sleep(0)


def held_by_kernel(tunnel: Tunnel) -> int:
    """Bytes for the upstream that it has not acknowledged."""
    (count,) = struct.unpack("i", fcntl.ioctl(tunnel._outward.target, termios.TIOCOUTQ, bytes(4)))
    return int(count)


@asynccontextmanager
async def clogged(**changes: float) -> AsyncIterator[tuple[World, Deaf, Chip]]:
    """A tunnel whose upstream takes nothing any more, with far more on its way than it took."""
    async with world(**changes) as w, deaf() as server:
        w.routed(w.via(port=server.port))
        chip = await w.knock()
        await server.greeted.wait()
        await pour(chip, 1_000_000)
        await server.stuck()
        (tunnel,) = w.guard.listener.tunnels
        assert held_by_kernel(tunnel) > 10_000
        yield w, server, chip


async def test_what_the_kernel_holds_is_dropped_when_a_lease_is_revoked() -> None:
    async with clogged() as (w, server, _):
        arrived = server.arrived()
        lease = w.guard.leases.find(ALLOCATION)
        assert lease is not None
        w.guard.leases._end(lease)
        assert await server.drained() == arrived


async def test_what_the_kernel_holds_is_dropped_at_the_deadline() -> None:
    async with clogged(ttl_s=3, renew_s=0.3, margin_s=1.6) as (w, server, chip):
        lease = w.guard.leases.find(ALLOCATION)
        assert lease is not None
        w.api.current.clear()
        assert await chip.is_cut()
        arrived = server.arrived()
        assert await server.drained() == arrived


async def test_a_tunnel_that_both_sides_have_ended_stays_under_its_lease_until_its_last_byte_has_arrived() -> (
    None
):
    async with world() as w, deaf() as server:
        w.routed(w.via(port=server.port))
        chip = await w.knock()
        await server.greeted.wait()
        # Little enough for the kernel to take it all: nothing of it is kept in the guard itself.
        await pour(chip, 100_000)
        chip.writer.write_eof()
        assert server.peer is not None
        server.peer.shutdown(socket.SHUT_WR)
        arrived = await server.stuck()
        (tunnel,) = w.guard.listener.tunnels
        assert tunnel._outward.kept is None
        assert held_by_kernel(tunnel) > 10_000
        lease = w.guard.leases.find(ALLOCATION)
        assert lease is not None
        assert len(lease.open) == 1
        w.guard.leases._end(lease)
        assert await server.drained() == arrived


async def test_a_tunnel_that_both_sides_have_ended_goes_when_its_last_byte_has_arrived() -> None:
    async with world() as w, deaf() as server:
        w.routed(w.via(port=server.port))
        chip = await w.knock()
        await server.greeted.wait()
        greeting = server.arrived()
        await pour(chip, 100_000)
        chip.writer.write_eof()
        assert server.peer is not None
        server.peer.shutdown(socket.SHUT_WR)
        await server.stuck()
        assert len(w.guard.listener.tunnels) == 1
        # The end of the stream counts as one.
        assert await server.drained() == greeting + 100_000 + 1
        await w.until(lambda: not w.guard.listener.tunnels)


async def test_what_the_kernel_holds_dies_with_a_guard_that_is_killed(tmp_path: Path) -> None:
    api = FakeApi()
    async with deaf() as server, http_api(api) as url, guard_process(url, tmp_path / "guard.log") as guard:
        api.current[ALLOCATION] = 1
        made = Upstream("socks5", "127.0.0.1", server.port, LOGIN, PASSWORD, "generic")
        api.routes = [route(upstream=made)]
        chip = await knock(guard.address, *credential())
        await server.greeted.wait()
        await pour(chip, 1_000_000)
        arrived = await server.stuck()
        await guard.kill()
        chip.close()
        assert await server.drained() == arrived


async def test_what_the_kernel_holds_dies_with_a_guard_that_sleeps_through_its_deadline(
    tmp_path: Path,
) -> None:
    api = FakeApi(ttl_s=3)
    async with (
        deaf() as server,
        http_api(api) as url,
        guard_process(url, tmp_path / "guard.log", **SHORT) as guard,
    ):
        api.current[ALLOCATION] = 1
        made = Upstream("socks5", "127.0.0.1", server.port, LOGIN, PASSWORD, "generic")
        api.routes = [route(upstream=made)]
        chip = await knock(guard.address, *credential())
        await server.greeted.wait()
        await pour(chip, 1_000_000)
        arrived = await server.stuck()
        guard.freeze()
        # The lease that was renewed last is the store's to give on after this.
        await asyncio.sleep(3)
        assert await server.drained() == arrived
        assert await asyncio.wait_for(guard.process.wait(), 5) == -signal.SIGKILL
        assert "guard_killed" in {line["message"] for line in guard.lines}
        chip.close()
