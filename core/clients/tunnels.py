"""Opening a tunnel at its upstream: SOCKS5, HTTP CONNECT, or straight from this host.

Names of destinations are resolved by the upstream, never here, except with `direct`. Nothing is sent to an upstream,
not even a login, unless `may_send` says so at that moment.

Guards open the tunnels of their chips so, and daemons look at an exit through the same door.

SOCKS5 is python-socks'. Its HTTP half takes the first packet for the whole answer, which loses what of the head comes
later into the tunnel, and it keeps the status line alone, where providers put their words behind it; so CONNECT is
written out here.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, cast

from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError, ProxyType
from python_socks.async_.asyncio import Proxy

from core.domain.egress_errors import EgressError, of_socks_reply
from core.domain.guard_wire import Upstream
from core.domain.providers import ErrorRule, upstream_error

_HEAD_LIMIT: Final = 16 * 1024
_WORDS_LIMIT: Final = 4096
_WORDS_S: Final = 1.0
_DISCARD: Final = struct.pack("ii", 1, 0)
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?(?:\r\n|$)")
# The library tells a refused login by its sentence alone; a test with a real server holds it to that.
_LOGIN_REFUSED: Final = (
    "Username and password authentication failure",
    "No acceptable authentication methods",
)
_BY_STATUS: Final = {
    401: EgressError.PROXY_AUTH,
    403: EgressError.PROXY_REFUSED,
    407: EgressError.PROXY_AUTH,
    502: EgressError.PROXY_HOST_UNREACHABLE,
    503: EgressError.PROXY_HOST_UNREACHABLE,
    504: EgressError.PROXY_HOST_UNREACHABLE,
}


class Refused(Exception):
    """A tunnel that is not opened. `error`: the reason code, and nothing else."""

    def __init__(self, error: EgressError) -> None:
        super().__init__(error.value)
        self.error = error


class Opened(NamedTuple):
    """A connected, non-blocking socket; `early`: what the destination has said already."""

    sock: socket.socket
    early: bytes = b""


async def opened(
    upstream: Upstream,
    host: str,
    port: int,
    *,
    may_send: Callable[[], bool],
    timeout_s: float,
    rules: Sequence[ErrorRule] = (),
) -> Opened:
    """A way to host:port through `upstream`. `rules`: of the provider. Raises Refused and nothing else."""
    loop = _Checked(asyncio.get_running_loop(), may_send)
    try:
        async with asyncio.timeout(timeout_s):
            if upstream.scheme == "socks5":
                return Opened(await _socks5(loop, upstream, host, port, timeout_s))
            if upstream.scheme == "http":
                return await _http(loop, upstream, host, port, rules)
            return Opened(await _connected(loop, host, port))
    except (TimeoutError, OSError):  # python-socks' errors of time and connection are these too
        raise Refused(EgressError.PROXY_UNREACHABLE) from None


def discard(sock: socket.socket) -> None:
    """Let the coming close, whoever does it, drop what the kernel has not sent or the other side not acknowledged."""
    if sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DISCARD)


class _Checked:
    """The loop's calls for sockets, each sending one behind a look at the lease."""

    def __init__(self, loop: asyncio.AbstractEventLoop, may_send: Callable[[], bool]) -> None:
        self._loop = loop
        self._may_send = may_send

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        self._check()
        # From here on a close drops what was not sent, a login too; the kernel's when this process is killed as well.
        discard(sock)
        await self._loop.sock_connect(sock, address)

    async def sock_sendall(self, sock: socket.socket, data: bytes) -> None:
        self._check()
        await self._loop.sock_sendall(sock, data)

    async def sock_recv(self, sock: socket.socket, count: int) -> bytes:
        return await self._loop.sock_recv(sock, count)

    async def getaddrinfo(self, host: str, port: int | None, **more: Any) -> Any:
        return await self._loop.getaddrinfo(host, port, **more)

    def _check(self) -> None:
        if not self._may_send():
            raise Refused(EgressError.NOT_CURRENT)


async def _socks5(
    loop: _Checked, upstream: Upstream, host: str, port: int, timeout_s: float
) -> socket.socket:
    proxy = Proxy(
        ProxyType.SOCKS5,
        upstream.host,
        upstream.port,
        username=upstream.username,
        password=upstream.password,
        rdns=True,
        loop=cast(asyncio.AbstractEventLoop, loop),
    )
    try:
        return await proxy.connect(host, port, timeout=timeout_s)
    except (ProxyTimeoutError, ProxyConnectionError):
        raise Refused(EgressError.PROXY_UNREACHABLE) from None
    except ProxyError as error:
        if str(error).startswith(_LOGIN_REFUSED):
            raise Refused(EgressError.PROXY_AUTH) from None
        raise Refused(of_socks_reply(error.error_code)) from None
    except ValueError:  # a login or name that its fields cannot hold
        raise Refused(EgressError.PROXY_PROTOCOL) from None


async def _http(
    loop: _Checked, upstream: Upstream, host: str, port: int, rules: Sequence[ErrorRule]
) -> Opened:
    sock = await _connected(loop, upstream.host, upstream.port)
    try:
        return await _agreed(
            loop, sock, upstream, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", rules
        )
    except BaseException:
        sock.close()
        raise


async def _agreed(
    loop: _Checked, sock: socket.socket, upstream: Upstream, target: str, rules: Sequence[ErrorRule]
) -> Opened:
    basic = base64.b64encode(f"{upstream.username}:{upstream.password}".encode()).decode()
    request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic {basic}\r\n\r\n"
    await loop.sock_sendall(sock, request.encode("ascii"))
    head, early = await _head(loop, sock)
    found = _STATUS.match(head)
    if found is None:
        raise Refused(EgressError.PROXY_PROTOCOL)
    status = int(found.group(1))
    if 200 <= status < 300:
        return Opened(sock, early)
    told = (head + await _words(loop, sock, early)).decode("latin-1")
    error = upstream_error(rules, status, told) or _BY_STATUS.get(status, EgressError.PROXY_PROTOCOL)
    raise Refused(error)


async def _head(loop: _Checked, sock: socket.socket) -> tuple[bytes, bytes]:
    """(head, what came after it)."""
    got = b""
    while b"\r\n\r\n" not in got:
        more = await loop.sock_recv(sock, 4096)
        if not more or len(got) + len(more) > _HEAD_LIMIT:
            raise Refused(EgressError.PROXY_PROTOCOL)
        got += more
    head, _, early = got.partition(b"\r\n\r\n")
    return head, early


async def _words(loop: _Checked, sock: socket.socket, got: bytes) -> bytes:
    """What of the body comes soon: some providers name the reason there alone."""
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(_WORDS_S):
            while len(got) < _WORDS_LIMIT and (more := await loop.sock_recv(sock, _WORDS_LIMIT)):
                got += more
    return got


async def _connected(loop: _Checked, host: str, port: int) -> socket.socket:
    """A TCP connection to the first address that takes one. Raises OSError."""
    failure: OSError = OSError("no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure
