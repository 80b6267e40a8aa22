"""Sends webhooks over HTTP on the loop: many at once, none of them in anybody's way."""

from __future__ import annotations

import os
import socket

from sandbox.waha.loop import READ, WRITE
from sandbox.waha.names import resolve, split_authority

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.waha.loop import Loop
    from sandbox.waha.timers import Timers

    Done = Callable[[int | None, str], None]

TIMEOUT_SECONDS = 10.0
_ANSWER_LIMIT = 16 * 1024


class LoopPoster:
    """A `Poster`. Plain HTTP only: the sandbox has no other; an https hook fails and says so."""

    def __init__(self, loop: Loop, timers: Timers) -> None:
        self._loop = loop
        self._timers = timers
        self._open: set[_Delivery] = set()

    def close(self) -> None:
        """Breaks off what is on the wire, unanswered, as the end of the process does."""
        for delivery in tuple(self._open):
            delivery.close()

    def post(self, url: str, headers: list[tuple[str, str]], body: bytes, done: Done) -> None:
        scheme, separator, rest = url.partition("://")
        if scheme.lower() != "http" or not separator:
            done(None, "the simulator sends webhooks to http:// addresses only")
            return
        authority, _, path = rest.partition("/")
        host, port = split_authority(authority)
        if port is None:
            done(None, "the webhook address has no valid port")
            return
        lines = [f"POST /{path} HTTP/1.1", f"Host: {authority}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}".replace("\r", "").replace("\n", "") for name, value in headers]
        lines += ["Connection: close", "", ""]
        delivery = _Delivery(self._loop, self._timers, "\r\n".join(lines).encode() + body, done, self._open)
        resolve(
            self._loop,
            host,
            port,
            lambda address: delivery.connect(address, port),
            lambda problem: delivery.finish(None, problem),
        )


class _Delivery:
    """One POST: connect, write, read the status line."""

    def __init__(
        self, loop: Loop, timers: Timers, data: bytes, done: Done, open_deliveries: set[_Delivery]
    ) -> None:
        self._loop = loop
        self._open = open_deliveries
        self._open.add(self)
        self._data = data
        self._done: Done | None = done
        self._answer = b""
        self._sock: socket.socket | None = None
        # Real time: the receiver lives in it, whatever the speed of the simulated clock.
        self._timer = timers.call_later_real(TIMEOUT_SECONDS, lambda: self.finish(None, "timed out"))

    def connect(self, address: str, port: int) -> None:
        if self._done is None:
            return
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            self._sock = socket.socket(family, socket.SOCK_STREAM)
            self._sock.setblocking(False)
            self._sock.connect_ex((address, port))
        except OSError as error:
            self.finish(None, str(error))
            return
        self._loop.watch(self._sock, WRITE, self._ready)

    def finish(self, status: int | None, problem: str) -> None:
        done = self._done
        self.close()
        if done is not None:
            done(status, problem)

    def close(self) -> None:
        self._done = None
        self._open.discard(self)
        self._timer.cancel()
        if self._sock is not None:
            self._loop.unwatch(self._sock)
            self._sock.close()
            self._sock = None

    def _ready(self, events: int) -> None:
        if self._sock is None:
            return
        try:
            if events & WRITE:
                error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    self.finish(None, os.strerror(error))
                    return
                self._data = self._data[self._sock.send(self._data) :]
                if not self._data:
                    self._loop.watch(self._sock, READ, self._ready)
            elif events & READ:
                self._read()
        except BlockingIOError:
            return
        except OSError as error:
            self.finish(None, str(error))

    def _read(self) -> None:
        assert self._sock is not None
        data = self._sock.recv(4096)
        self._answer += data
        line, newline, _ = self._answer.partition(b"\r\n")
        words = line.split(b" ")
        if newline and len(words) >= 2 and words[0].startswith(b"HTTP/") and words[1].isdigit():
            # The whole answer is read, or the receiver would see a reset while it still writes.
            if not data or _is_complete(self._answer) or len(self._answer) > _ANSWER_LIMIT:
                self.finish(int(words[1]), "")
        elif newline or not data or len(self._answer) > _ANSWER_LIMIT:
            self.finish(None, "the receiver did not answer in HTTP")


def _is_complete(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return bool(end) and len(body) >= int(value)
    return False
