"""Tunnels to WhatsApp through a session's proxy: CONNECT with a Basic credential, as all engines of WAHA do it.

No TLS and no protocol of WhatsApp's: a hello that must be answered before the tunnel counts as standing, then a few
bytes at an interval, each answered too. What an engine would notice is noticed here: a refusal, a connection that
breaks, and one that has gone silent.
"""

from __future__ import annotations

import binascii
import os
import socket

from sandbox.waha.loop import READ, WRITE
from sandbox.waha.names import resolve, split_authority

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandbox.waha.loop import Loop
    from sandbox.waha.timers import Timer, Timers

TARGET = "g.whatsapp.net:443"
OPEN_SECONDS = 25.0
"""Real seconds from the first packet to the answered hello; the guard gives an upstream 15 of them."""
SILENCE_SECONDS = 30.0
"""Real seconds without an answer after which a tunnel counts as broken (whatsmeow: a ping and its deadline)."""
LEAST_PAUSE = 0.02
"""Real seconds between two messages, whatever the speed of the clock."""
_HELLO = b"hello from a chip of the sandbox".ljust(48, b".")
_BEAT = b"\0" * 24
_HEAD_LIMIT = 8 * 1024


class Tunnels:
    """Those of one container. `interval`: simulated seconds between two messages of a tunnel."""

    def __init__(self, loop: Loop, timers: Timers, interval: float) -> None:
        self.loop = loop
        self.timers = timers
        self.pause = max(interval, LEAST_PAUSE * timers.speed)
        self.all: set[Tunnel] = set()

    def open(self, proxy: dict[str, Any], up: Callable[[], None], down: Callable[[str], None]) -> Tunnel:
        """Calls `up` once it stands, and `down(why)` once when it does not come up or breaks; never from here."""
        tunnel = Tunnel(self, _request(proxy), up, down)
        self.all.add(tunnel)
        host, port = split_authority(str(proxy.get("server", "")).removeprefix("http://"))
        if port is None:
            # Through the loop: whoever opens it has not got it yet.
            self.loop.call_soon_threadsafe(lambda: tunnel.fail("the proxy's address has no valid port"))
        else:
            resolve(
                self.loop,
                host,
                port,
                lambda address: self.loop.call_soon_threadsafe(lambda: tunnel.connect(address, port)),
                tunnel.fail,
            )
        return tunnel

    def close(self) -> None:
        """All of them, as the end of the process does."""
        for tunnel in tuple(self.all):
            tunnel.close()


class Tunnel:
    """`sent`, `received`: bytes of what flows through it, without the CONNECT and its answer."""

    def __init__(
        self, tunnels: Tunnels, request: bytes, up: Callable[[], None], down: Callable[[str], None]
    ) -> None:
        self.sent = 0
        self.received = 0
        self._tunnels = tunnels
        self._up: Callable[[], None] | None = up
        self._down: Callable[[str], None] | None = down
        self._out = request
        self._head = b""
        self._granted = False
        self._sock: socket.socket | None = None
        self._heard_at = 0.0
        self._timer: Timer = tunnels.timers.call_later_real(OPEN_SECONDS, lambda: self.fail("timed out"))

    def connect(self, address: str, port: int) -> None:
        if self._down is None:
            return
        try:
            self._sock = socket.socket(
                socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM
            )
            self._sock.setblocking(False)
            self._sock.connect_ex((address, port))
        except OSError as error:
            self.fail(str(error))
            return
        self._tunnels.loop.watch(self._sock, WRITE, self._ready)

    def fail(self, why: str) -> None:
        down = self._down
        self.close()
        if down is not None:
            down(why)

    def close(self) -> None:
        """Nothing is told any more."""
        self._up = self._down = None
        self._timer.cancel()
        self._tunnels.all.discard(self)
        if self._sock is not None:
            self._tunnels.loop.unwatch(self._sock)
            self._sock.close()
            self._sock = None

    def _ready(self, events: int) -> None:
        if self._sock is None:
            return
        try:
            if events & WRITE:
                error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    self.fail(os.strerror(error))
                    return
                self._flush(self._sock)
            if events & READ and self._sock is not None:
                self._read(self._sock)
        except BlockingIOError:
            return
        except OSError as error:
            self.fail(str(error))

    def _flush(self, sock: socket.socket) -> None:
        try:
            count = sock.send(self._out) if self._out else 0
        except BlockingIOError:
            count = 0
        self._out = self._out[count:]
        if self._granted:
            self.sent += count
        self._tunnels.loop.watch(sock, READ | WRITE if self._out else READ, self._ready)

    def _read(self, sock: socket.socket) -> None:
        data = sock.recv(16384)
        if not data:
            self.fail("closed by the other side")
            return
        if not self._granted:
            data = self._answered(sock, data)
        if data:
            self.received += len(data)
            self._heard_at = self._tunnels.timers.now()
            up, self._up = self._up, None
            if up is not None:
                self._beat_later()
                up()

    def _answered(self, sock: socket.socket, data: bytes) -> bytes:
        """What came behind the head of the proxy's answer."""
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            if len(self._head) > _HEAD_LIMIT:
                self.fail("the proxy does not answer in HTTP")
            return b""
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) < 2 or words[1] != b"200":
            self.fail(_refusal(head))
            return b""
        self._granted, self._head = True, b""
        self._out += _HELLO
        self._flush(sock)
        return rest

    def _beat_later(self) -> None:
        self._timer.cancel()
        self._timer = self._tunnels.timers.call_later(self._tunnels.pause, self._beat)

    def _beat(self) -> None:
        timers = self._tunnels.timers
        silence = max(SILENCE_SECONDS * timers.speed, 3 * self._tunnels.pause)
        if timers.now() - self._heard_at > silence:
            self.fail("no answer any more")
            return
        self._beat_later()
        if self._sock is None:
            return
        try:
            self._out += _BEAT
            self._flush(self._sock)
        except OSError as error:
            self.fail(str(error))


def _request(proxy: dict[str, Any]) -> bytes:
    lines = [f"CONNECT {TARGET} HTTP/1.1", f"Host: {TARGET}"]
    if proxy.get("username"):
        credential = f"{proxy['username']}:{proxy.get('password') or ''}".encode()
        lines.append(f"Proxy-Authorization: Basic {binascii.b2a_base64(credential, newline=False).decode()}")
    return "\r\n".join([*lines, "", ""]).encode()


def _refusal(head: bytes) -> str:
    """The status line, and the guard's reason where it names one."""
    line, *fields = head.decode("latin-1").split("\r\n")
    for field in fields:
        name, _, value = field.partition(":")
        if name.strip().lower() == "x-wahafleet-reason":
            return f"refused: {value.strip()}"
    return f"refused: {line[:80]}"
