"""The two sockets of a tunnel as the guard has them, and what comes and goes at their far ends."""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from egress.relay import Tunnel
    from tests.simulation.fence.containers import Container
    from tests.simulation.fence.world import FenceWorld


class End:
    """A socket of the guard's. `stalled`: whoever is at the other side takes nothing.

    `forwarded` is where a byte of an allocation leaves the guard.
    """

    def __init__(self, wire: Wire, number: int, *, inward: bool) -> None:
        self.wire = wire
        self.number = number
        self.inward = inward
        self.inbox: deque[bytes] = deque()
        self.ended = False
        self.broken = False
        self.stalled = False
        self.closed = False

    def readable(self) -> bool:
        return bool(self.inbox) or self.ended or self.broken

    def writable(self) -> bool:
        return not self.stalled

    # --- what the relay calls ---------------------------------------------------------------------------
    def fileno(self) -> int:
        return self.number

    def recv_into(self, buffer: Any) -> int:
        if self.inbox:
            data = self.inbox.popleft()
            buffer[: len(data)] = data
            return len(data)
        if self.broken:
            raise ConnectionResetError(errno.ECONNRESET, "reset")
        if self.ended:
            return 0
        raise BlockingIOError

    def send(self, chunk: Any) -> int:
        if self.stalled:
            raise BlockingIOError
        self.wire.world.judge.forwarded(self.wire, len(chunk), inward=self.inward)
        if self.broken:
            raise BrokenPipeError
        return len(chunk)

    def shutdown(self, how: int) -> None:
        if self.broken:
            raise OSError(errno.ENOTCONN, "not connected")
        self.wire.heard_end(self)

    def setsockopt(self, *what: object) -> None:
        pass

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.wire.world.loop.sockets.pop(self.number, None)
            self.wire.was_closed()

    # --- what the world does ----------------------------------------------------------------------------
    def comes(self, data: bytes) -> None:
        if not (self.closed or self.ended or self.broken):
            self.inbox.append(data)
            self.stir()

    def ends(self, *, broken: bool = False) -> None:
        self.ended, self.broken = True, self.broken or broken
        self.stir()

    def stir(self) -> None:
        if not self.closed:
            self.wire.world.loop.stirred(self.number)


class Wire:
    """One tunnel, seen from outside. `began`: the judge's count of events when it stood."""

    def __init__(self, world: FenceWorld, container: Container) -> None:
        self.world = world
        self.container = container
        self.chip, self.far = (
            End(self, world.next_socket(), inward=True),
            End(self, world.next_socket(), inward=False),
        )
        world.loop.sockets[self.chip.number] = self.chip
        world.loop.sockets[self.far.number] = self.far
        self.tunnel: Tunnel | None = None
        self.began = 0
        self.quits_in_s = world.random.uniform(0.1, 3.0)  # drawn here: several are closed in no certain order

    @property
    def is_open(self) -> bool:
        return not (self.chip.closed or self.far.closed)

    def heard_end(self, at: End) -> None:
        """What the guard said to one side is over; WhatsApp answers by hanging up, and so does a chip."""
        other = self.far if at is self.far else self.chip
        self.world.loop.after(0.05, other.ends)

    def was_closed(self) -> None:
        if self.chip.closed and self.far.closed:
            self.container.lost(self)

    def kill(self) -> None:
        """The guard's process is gone: its kernel closes both."""
        for end in (self.chip, self.far):
            self.world.loop.remove_reader(end.number)
            self.world.loop.remove_writer(end.number)
            end.close()


def acknowledged(sock: Any) -> bool:
    """Whether all that was sent has arrived: where the far end takes nothing it has not."""
    return not sock.stalled
