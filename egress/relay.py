"""A tunnel once it stands: bytes from one socket to the other, each chunk only while its lease holds.

It works on sockets and not on asyncio's transports, which would send what they buffered whenever they can, without
a look at the lease. Here each call of `send` comes right after that look. What could not be sent is kept, one chunk
a direction at most, and nothing more is read until it is gone: that is all the backpressure there is.

Bytes that the kernel has taken are still to arrive. Closing an upstream's socket always drops them (`discard`, set
before it is connected), so they end with the tunnel, and with the process however that ends. And a tunnel that both
sides have finished stays under its lease until the upstream has acknowledged its last byte.

An idle tunnel is two sockets and three small objects; all tunnels receive into one buffer.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from typing import Final

from core.clients.tunnels import discard as discard
from core.clock import Boottime
from core.domain.guard_wire import Route
from egress.leases import Lease
from egress.meter import Cell

CHUNK: Final = 128 * 1024
_buffer = bytearray(CHUNK)
_view = memoryview(_buffer)
_KEEPALIVE_S: Final = 60
_ACKNOWLEDGED_EVERY_S: Final = 0.05
_CLOSED: Final = 7  # TCP_CLOSE


class Tunnel:
    """Two sockets, both connected and non-blocking; `upstream` discards. `closed` is told once, when both are gone.

    Attributes:
        began_at, moved_at: boot times of the start and of the last byte.
        cell: the meter's; bytes count when the kernel has taken them.
        route: by which it was opened.
    """

    __slots__ = (
        "_closed",
        "_inward",
        "_outward",
        "began_at",
        "boottime",
        "cell",
        "is_open",
        "lease",
        "loop",
        "moved_at",
        "route",
    )

    def __init__(
        self,
        chip: socket.socket,
        upstream: socket.socket,
        lease: Lease,
        cell: Cell,
        boottime: Boottime,
        closed: Callable[[Tunnel], None],
        route: Route,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.lease = lease
        self.cell = cell
        self.route = route
        self.is_open = True
        self.began_at = self.moved_at = boottime()
        self.boottime = boottime
        self._closed = closed
        self._outward = _Way(self, chip, upstream, inward=False)
        self._inward = _Way(self, upstream, chip, inward=True)

    def start(self, from_chip: bytes = b"", from_upstream: bytes = b"") -> None:
        """Forward from now on; first what had come already."""
        lease, cell = self.lease, self.cell
        lease.open.add(self)
        cell.tunnels += 1
        cell.held += 1
        if not self.may_forward():
            return
        for way, early in ((self._outward, from_chip), (self._inward, from_upstream)):
            if self.is_open:
                way.start(early)

    def may_forward(self) -> bool:
        """Whether the lease holds; closes the tunnel when it does not. Counts as a sign of life."""
        now = self.boottime()
        if now >= self.lease.deadline:
            self.run_out()
            return False
        self.moved_at = now
        return True

    def run_out(self) -> None:
        """The lease has ended, and its timer has not noticed yet."""
        if self.is_open:
            self.lease.cut += 1
            self.abort()

    def ended(self) -> None:
        """One direction has come to its end; with the other one the tunnel has."""
        if self._outward.is_over and self._inward.is_over:
            self._leave()

    def _leave(self) -> None:
        if not self.is_open:
            return
        if is_acknowledged(self._outward.target):
            self._close()
        else:
            # The kernel goes on sending, and only who still has the socket can end that with the lease.
            self.loop.call_later(_ACKNOWLEDGED_EVERY_S, self._leave)

    def abort(self) -> None:
        """Close both, without sending what is buffered here or in the kernel."""
        if not self.is_open:
            return
        for way in (self._outward, self._inward):
            discard(way.source)
        self._close()

    def _close(self) -> None:
        self.is_open = False
        for way in (self._outward, self._inward):
            self.loop.remove_reader(way.source.fileno())
            self.loop.remove_writer(way.source.fileno())
        for way in (self._outward, self._inward):
            way.kept = None
            way.source.close()
        self.lease.leave(self, self.boottime())
        self.cell.held -= 1
        self._closed(self)


class _Way:
    """One direction."""

    __slots__ = ("ends", "inward", "is_over", "kept", "source", "target", "tunnel")

    def __init__(self, tunnel: Tunnel, source: socket.socket, target: socket.socket, *, inward: bool) -> None:
        self.tunnel = tunnel
        self.source = source
        self.target = target
        self.inward = inward
        self.kept: memoryview | None = None  # read, and not yet taken by the other side
        self.ends = False  # the source has said that nothing more comes
        self.is_over = False

    def start(self, early: bytes) -> None:
        self.tunnel.loop.add_reader(self.source.fileno(), self._readable)
        if early:
            self._forward(memoryview(early))

    def _readable(self) -> None:
        tunnel = self.tunnel
        try:
            count = self.source.recv_into(_buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            tunnel.abort()
            return
        if count:
            self._forward(_view[:count])
            return
        self.ends = True
        tunnel.loop.remove_reader(self.source.fileno())
        self._end()

    def _forward(self, chunk: memoryview) -> None:
        # Every byte comes through here, in pieces as small as the upstream sends them; so the look at the lease and
        # the count stand here once more instead of being called.
        tunnel = self.tunnel
        now = tunnel.boottime()
        if now >= tunnel.lease.deadline:
            tunnel.run_out()
            return
        tunnel.moved_at = now
        try:
            sent = self.target.send(chunk)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            tunnel.abort()
            return
        if self.inward:
            tunnel.cell.bytes_in += sent
        else:
            tunnel.cell.bytes_out += sent
        if sent < len(chunk):
            # A copy: the buffer is everybody's.
            self.kept = memoryview(bytes(chunk[sent:]))
            tunnel.loop.remove_reader(self.source.fileno())
            tunnel.loop.add_writer(self.target.fileno(), self._writable)

    def _writable(self) -> None:
        kept, self.kept = self.kept, None
        if kept is None:
            return
        tunnel = self.tunnel
        tunnel.loop.remove_writer(self.target.fileno())
        self._forward(kept)
        if self.kept is not None or not tunnel.is_open:
            return
        if self.ends:
            self._end()
        else:
            tunnel.loop.add_reader(self.source.fileno(), self._readable)

    def _end(self) -> None:
        if self.kept is not None:
            return
        try:
            self.target.shutdown(socket.SHUT_WR)
        except OSError:
            self.tunnel.abort()
            return
        self.is_over = True
        self.tunnel.ended()


def prepare(sock: socket.socket) -> None:
    """Options of every socket of a tunnel."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)


def is_acknowledged(sock: socket.socket) -> bool:
    """Whether the other side's kernel has everything, the end of the stream included; or the connection is gone."""
    (held,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
    return held == 0 or sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _CLOSED
