"""Where chips knock: from the first byte of a CONNECT to a tunnel that stands, or an answer that says why not."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, Final

import msgspec
import structlog

from core.clock import Boottime
from core.domain.chip_credentials import chip_password, matches, parse_chip_user
from core.domain.egress_errors import EgressError, http_status
from core.domain.guard_wire import Route, Upstream
from core.domain.providers import Template
from egress.destinations import Destinations
from egress.errors import Refused
from egress.leases import Lease, Leases
from egress.meter import Cell, Meter
from egress.relay import Tunnel, discard, prepare
from egress.request import END, HEAD_LIMIT, Request, parse
from egress.upstreams import Opened, opened

BACKLOG: Final = 1024
# Chips that have knocked and have no tunnel yet; further ones wait in the kernel's line.
KNOCKING: Final = 512
_ACCEPT_AT_ONCE: Final = 64
_BREATH_S: Final = 0.5
_ANSWER_S: Final = 2.0
_STANDS: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
_PHRASES: Final = {
    400: "Bad Request",
    403: "Forbidden",
    407: "Proxy Authentication Required",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
_log = structlog.get_logger(__name__)


class Rules(msgspec.Struct, frozen=True):
    """What a tunnel needs. `key`: of this node. `most`: tunnels at a time. See `core.settings_guard` for the rest."""

    key: bytes
    destinations: Destinations
    templates: Mapping[str, Template]
    most: int
    head_s: float
    connect_s: float
    idle_s: float
    life_s: float
    direct: bool


class Listener:
    """Takes connections from `sock`, a bound socket, from `start` to `stop`.

    Attributes:
        refused: by reason since the start. accepted: connections. established: tunnels.
    """

    def __init__(
        self, sock: socket.socket, rules: Rules, leases: Leases, meter: Meter, boottime: Boottime
    ) -> None:
        self._sock = sock
        self._rules = rules
        self._leases = leases
        self._meter = meter
        self._boottime = boottime
        self._knocking: set[asyncio.Task[None]] = set()
        self._connecting = 0
        self._is_accepting = False
        self._is_stopping = False
        self._breath: asyncio.TimerHandle | None = None
        self.tunnels: set[Tunnel] = set()
        self.refused: Counter[EgressError] = Counter()
        self.accepted = 0
        self.established = 0

    @property
    def is_full(self) -> bool:
        return len(self.tunnels) + self._connecting >= self._rules.most

    @property
    def knocking(self) -> int:
        return len(self._knocking)

    def start(self) -> None:
        self._sock.setblocking(False)
        self._sock.listen(BACKLOG)
        self._accept_again()

    async def stop(self) -> None:
        """Take nobody any more and close what is open."""
        self._is_stopping = True
        self._accept_no_more()
        if self._breath is not None:
            self._breath.cancel()
        self._sock.close()
        for task in self._knocking:
            task.cancel()
        await asyncio.gather(*self._knocking, return_exceptions=True)
        for tunnel in list(self.tunnels):
            tunnel.abort()

    async def sweep(self) -> None:
        """Close what is silent or old, until cancelled."""
        every_s = min(5.0, self._rules.idle_s / 4)
        while True:
            await asyncio.sleep(every_s)
            now = self._boottime()
            for tunnel in list(self.tunnels):
                if now - tunnel.moved_at > self._rules.idle_s or now - tunnel.began_at > self._rules.life_s:
                    tunnel.abort()

    def _accept_again(self) -> None:
        self._breath = None
        if not self._is_accepting and not self._is_stopping and len(self._knocking) < KNOCKING:
            self._is_accepting = True
            asyncio.get_running_loop().add_reader(self._sock.fileno(), self._accept)

    def _accept_no_more(self) -> None:
        if self._is_accepting:
            self._is_accepting = False
            asyncio.get_running_loop().remove_reader(self._sock.fileno())

    def _accept(self) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            if len(self._knocking) >= KNOCKING:
                self._accept_no_more()
                return
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # No file or memory is left: those who hang up give some back.
                _log.warning("guard_cannot_accept", error=errno.errorcode.get(error.errno or 0, "?"))
                self._accept_no_more()
                self._breath = asyncio.get_running_loop().call_later(_BREATH_S, self._accept_again)
                return
            self.accepted += 1
            task = asyncio.get_running_loop().create_task(self._answered(sock))
            self._knocking.add(task)
            task.add_done_callback(self._left)

    def _left(self, task: asyncio.Task[None]) -> None:
        self._knocking.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("tunnel_broke", exc_info=error)
        if self._breath is None:
            self._accept_again()

    async def _answered(self, sock: socket.socket) -> None:
        stands = False
        try:
            prepare(sock)
            stands = await self._knocked(sock)
        except Refused as refusal:
            self.refused[refusal.error] += 1
            await self._say_no(sock, refusal.error)
        except (TimeoutError, OSError):
            pass  # it hung up, or said nothing for too long
        finally:
            if not stands:
                sock.close()

    async def _knocked(self, sock: socket.socket) -> bool:
        """Whether the socket belongs to a tunnel now."""
        try:
            async with asyncio.timeout(self._rules.head_s):
                head, early = await _head(sock)
        except TimeoutError:
            self.refused[EgressError.BAD_REQUEST] += 1
            raise
        if not head:
            return False
        request = parse(head)
        route, lease = await self._admitted(request)
        cell = self._meter.cell(route)
        try:
            upstream = self._allowed(route)
            with self._place(), self._opening(request, upstream, lease, route) as opening:
                found = await opening.result()
                return await self._stands(sock, early, found, opening, lease, cell)
        except Refused as refusal:
            cell.failed(refusal.error)
            raise

    async def _admitted(self, request: Request) -> tuple[Route, Lease]:
        """Who it is and what it may. Raises Refused."""
        try:
            chip_id, allocation_id = parse_chip_user(request.user)
        except ValueError:
            raise Refused(EgressError.UNAUTHENTICATED) from None
        known = self._leases.find(allocation_id)
        route = known.routes.get(chip_id) if known is not None else None
        hint = route.label_generation if route is not None else None
        if not matches(self._rules.key, chip_id, allocation_id, request.password, hint=hint):
            raise Refused(EgressError.UNAUTHENTICATED)
        if not self._rules.destinations.allows(request.host, request.port):
            raise Refused(EgressError.DESTINATION_REFUSED)
        lease = await self._leases.of(allocation_id)
        if lease is None:
            raise Refused(EgressError.NOT_CURRENT)
        if not self._is_of(lease.routes.get(chip_id), request) and not await self._leases.renewed(lease):
            raise Refused(EgressError.NOT_CURRENT)
        route = lease.routes.get(chip_id)
        if route is None:
            raise Refused(EgressError.NO_UPSTREAM)
        return route, lease

    def _is_of(self, route: Route | None, request: Request) -> bool:
        """Whether the route leads out and is as old as the chip's own credential, so no younger one is to be expected."""
        if route is None or route.upstream is None:
            return False
        given = (route.chip_id, route.allocation_id, route.label_generation)
        return chip_password(self._rules.key, *given) == request.password

    def _allowed(self, route: Route) -> Upstream:
        upstream = route.upstream
        if upstream is None:
            raise Refused(route.why or EgressError.NO_UPSTREAM)
        if upstream.scheme == "direct" and not self._rules.direct:
            raise Refused(EgressError.NO_UPSTREAM)
        if route.quota_left_bytes is not None and route.quota_left_bytes <= 0:
            raise Refused(EgressError.QUOTA)
        return upstream

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        if self.is_full:
            raise Refused(EgressError.GUARD_FULL)
        self._connecting += 1
        try:
            yield
        finally:
            self._connecting -= 1

    @contextlib.contextmanager
    def _opening(self, request: Request, upstream: Upstream, lease: Lease, route: Route) -> Iterator[Opening]:
        opening = Opening(self._way(request, upstream, lease), route)
        lease.open.add(opening)
        try:
            yield opening
        finally:
            lease.leave(opening, self._boottime())

    async def _stands(
        self, sock: socket.socket, early: bytes, found: Opened, opening: Opening, lease: Lease, cell: Cell
    ) -> bool:
        try:
            await self._say(sock, _STANDS)
        except BaseException:
            discard(found.sock)
            found.sock.close()
            raise
        if opening.is_aborted:
            discard(found.sock)
            found.sock.close()
            return False
        tunnel = Tunnel(sock, found.sock, lease, cell, self._boottime, self.tunnels.discard, opening.route)
        self.tunnels.add(tunnel)
        self.established += 1
        # A lease that ended in this moment ends the tunnel before its first byte.
        tunnel.start(early, found.early)
        return True

    async def _way(self, request: Request, upstream: Upstream, lease: Lease) -> Opened:
        template = self._rules.templates.get(upstream.provider) or self._rules.templates.get("generic")
        return await opened(
            upstream,
            request.host,
            request.port,
            may_send=lambda: self._leases.holds(lease),
            timeout_s=self._rules.connect_s,
            rules=template.errors if template is not None else (),
        )

    async def _say(self, sock: socket.socket, answer: bytes) -> None:
        async with asyncio.timeout(_ANSWER_S):
            await asyncio.get_running_loop().sock_sendall(sock, answer)

    async def _say_no(self, sock: socket.socket, error: EgressError) -> None:
        """Answer, and wait a moment for the other side to hang up: a reset would overtake the answer."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError, OSError):
            await self._say(sock, refusal(error))
            sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(_ANSWER_S):
                for _ in range(16):
                    if not await loop.sock_recv(sock, HEAD_LIMIT):
                        break


class Opening:
    """A way to an upstream that is being opened, until its tunnel stands: it ends with its lease and its route."""

    def __init__(self, way: Coroutine[Any, Any, Opened], route: Route) -> None:
        self._task = asyncio.get_running_loop().create_task(way)
        self.route = route
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True
        self._task.cancel()

    async def result(self) -> Opened:
        """Raises Refused."""
        try:
            found = await self._task
        except asyncio.CancelledError:
            if not self.is_aborted:
                raise
            raise Refused(EgressError.NOT_CURRENT) from None
        if self.is_aborted:
            discard(found.sock)
            found.sock.close()
            raise Refused(EgressError.NOT_CURRENT)
        return found


def refusal(error: EgressError) -> bytes:
    """The whole answer to a CONNECT that is refused."""
    status, body = http_status(error), f"{error.value}\n"
    lines = [
        f"HTTP/1.1 {status} {_PHRASES[status]}",
        f"X-Wahafleet-Reason: {error.value}",
        "Content-Type: text/plain",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    if status == http_status(EgressError.UNAUTHENTICATED):
        lines.insert(1, 'Proxy-Authenticate: Basic realm="wahafleet"')
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode("ascii")


async def _head(sock: socket.socket) -> tuple[bytes, bytes]:
    """(head, what came after it); an empty head = it hung up without a word. Raises Refused when it is none."""
    loop, got = asyncio.get_running_loop(), b""
    while True:
        more = await loop.sock_recv(sock, HEAD_LIMIT)
        if not more:
            if got:
                raise Refused(EgressError.BAD_REQUEST)
            return b"", b""
        # The end may lie across two packets; what was looked at before is not looked at again.
        begin = max(0, len(got) - len(END) + 1)
        got += more
        if not b"CONNECT ".startswith(got[:8]):
            raise Refused(EgressError.BAD_REQUEST)
        at = got.find(END, begin)
        if at > HEAD_LIMIT or (at < 0 and len(got) > HEAD_LIMIT):
            raise Refused(EgressError.BAD_REQUEST)
        if at >= 0:
            return got[:at], got[at + len(END) :]
