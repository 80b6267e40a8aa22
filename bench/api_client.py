"""Pages that poll, as many as wanted in one process: what each asks, when, and how long it took.

A page asks for the list every 5 s, and with a QR open for that and for the chip every 3 s each, never waiting
for the last answer. Times count from the moment at which a request was due, so an answer that is late makes
the next ones late too and hides nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from typing import Final, cast
from urllib.parse import urlsplit

import msgspec

LIST_S: Final = 5.0
CHIP_S: Final = 3.0


class Page(msgspec.Struct, frozen=True):
    """One browser tab: where it asks, as whom, and whose QR is open."""

    api: str
    token: str
    chip_id: str


class Route(msgspec.Struct):
    """What came back on one route. `late_s`: how late each request was sent, which its time in `seconds` holds too."""

    seconds: list[float] = msgspec.field(default_factory=list)
    late_s: list[float] = msgspec.field(default_factory=list)
    statuses: dict[int, int] = msgspec.field(default_factory=dict)
    with_qr: int = 0

    def summary(self) -> dict[str, object]:
        times = sorted(self.seconds)
        return {
            "requests": len(times),
            "p50_ms": round(1000 * times[len(times) // 2], 2),
            "p99_ms": round(1000 * times[int(len(times) * 0.99)], 2),
            "max_ms": round(1000 * times[-1], 2),
            "sent_late_p99_ms": round(1000 * sorted(self.late_s)[int(len(times) * 0.99)], 2),
            "statuses": dict(sorted(self.statuses.items())),
        }


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with one answer after the other; enough of it for our own server."""

    def __init__(self) -> None:
        self._received = b""
        self._waiting: deque[asyncio.Future[tuple[int, bytes, bytes]]] = deque()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by name

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        for future in self._waiting:
            if not future.done():
                future.set_exception(error or ConnectionError("the server closed the connection"))

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    async def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
        """Status, headers in lower case, body."""
        assert self._transport is not None
        future: asyncio.Future[tuple[int, bytes, bytes]] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._transport.write(request)
        return await future

    def data_received(self, data: bytes) -> None:
        self._received += data
        while True:
            head, found, rest = self._received.partition(b"\r\n\r\n")
            if not found:
                return
            head = head.lower()
            length = 0
            if b"content-length: " in head:
                length = int(head.split(b"content-length: ", 1)[1].split(b"\r", 1)[0])
            if len(rest) < length:
                return
            self._received = rest[length:]
            future = self._waiting.popleft()
            if not future.done():
                future.set_result((int(head[9:12]), head, rest[:length]))


class Poller:
    """One thing that a page asks again and again."""

    def __init__(self, page: Page, path: str, every_s: float, route: Route) -> None:
        target = urlsplit(page.api)
        self._host, self._port = target.hostname or "", target.port or 80
        self._every_s = every_s
        self._route = route
        # What the deployed pages send with every request.
        self._request = (
            f"GET {path} HTTP/1.1\r\nhost: {target.netloc}\r\ncookie: whago_access_token={page.token}\r\n"
            f"authorization: Bearer {page.token}\r\ncontent-type: application/json\r\n"
            "accept: */*\r\nsec-fetch-mode: cors\r\nsec-fetch-site: same-origin\r\n"
            "user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/142.0 Safari/537.36\r\n"
        )
        self._tag = ""

    async def run(self, opened_by: float, counts_from: float, until: float) -> None:
        """Ask from a random moment before `opened_by` on. Times by `time.perf_counter`."""
        now = time.perf_counter()
        due = now + random.random() * (opened_by - now)
        connection: _Connection | None = None
        loop = asyncio.get_running_loop()
        while due < until:
            await asyncio.sleep(due - time.perf_counter())
            if connection is None or not connection.is_open:
                _, connection = await loop.create_connection(_Connection, self._host, self._port)
            late_s = time.perf_counter() - due
            tag = f"if-none-match: {self._tag}\r\n" if self._tag else ""
            status, head, body = await connection.ask(f"{self._request}{tag}\r\n".encode())
            if due >= counts_from:
                self._route.seconds.append(time.perf_counter() - due)
                self._route.late_s.append(late_s)
                self._route.statuses[status] = self._route.statuses.get(status, 0) + 1
                self._route.with_qr += b'"qr":"data:' in body
            if b"\r\netag: " in head:
                self._tag = head.split(b"\r\netag: ", 1)[1].split(b"\r", 1)[0].decode().replace("w/", "W/")
            due += self._every_s


async def poll(pages: list[Page], warm_up_s: float, seconds: float) -> dict[str, Route]:
    """What all `pages` got on each route in `seconds`, after `warm_up_s` that do not count.

    Pages are opened in the first two thirds of that, one after the other as people do, not all at once.
    """
    routes = {"list": Route(), "chip": Route(), "qr": Route()}
    opened_by = time.perf_counter() + max(LIST_S, warm_up_s * 2 / 3)
    counts_from = time.perf_counter() + warm_up_s
    until = counts_from + seconds
    pollers = []
    for page in pages:
        chip = f"/api/v1/chips/{page.chip_id}"
        pollers += [
            Poller(page, "/api/v1/chips", LIST_S, routes["list"]),
            Poller(page, chip, CHIP_S, routes["chip"]),
            Poller(page, f"{chip}/qr", CHIP_S, routes["qr"]),
        ]
    await asyncio.gather(*(poller.run(opened_by, counts_from, until) for poller in pollers))
    return routes
