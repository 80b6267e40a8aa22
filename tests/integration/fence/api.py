"""The API's internal routes for guards: leases are PostgreSQL's, routes lead to the judge, and each host's way may fail."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from core.domain.chip_credentials import node_key
from core.domain.guard_wire import Renew, Renewed, Route, Standing, Upstream
from core.errors import DependencyError
from core.status_server import listening
from core.store.guard_leases import GuardLeases

PASSWORD = "hunter2"


class Way:
    """Between one host and the API. `open`: something passes. `late_s`: requests and answers take up to so long each."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.late_s = 0.0


class GuardApi:
    """`chips`: (user id, chip id) by allocation; whoever places an allocation adds it."""

    def __init__(self, leases: GuardLeases, secret: bytes, socks_port: int, rng: random.Random) -> None:
        self._leases = leases
        self._secret = secret
        self._socks_port = socks_port
        self._rng = rng
        self.chips: dict[str, tuple[str, str]] = {}
        self.ways: dict[str, Way] = {}
        self.refused = 0

    def way(self, node_id: str) -> Way:
        return self.ways.setdefault(node_id, Way())

    async def renew(self, renew: Renew) -> Renewed:
        await self._leases.confirm_closed(renew.node_id, renew.closed)
        answers = await self._leases.renew(renew.node_id, renew.asks)
        routes = [
            self._route(answer.allocation_id)
            for answer in answers
            if answer.standing is Standing.GRANTED and answer.allocation_id in self.chips
        ]
        return Renewed(answers, tuple(routes))

    def _route(self, allocation_id: str) -> Route:
        user_id, chip_id = self.chips[allocation_id]
        # Who spoke shows in the judge's log: the user name carries the allocation.
        via = Upstream(
            "socks5", "127.0.0.1", self._socks_port, f"{user_id}/{allocation_id}", PASSWORD, "generic"
        )
        return Route(allocation_id, user_id, chip_id, 1, "label", via)

    async def __call__(self, scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        status, answer = 401, b"{}"
        node_id, _, key = headers.get(b"authorization", b"").decode().removeprefix("Guard ").partition(":")
        if key == node_key(self._secret, node_id).hex():
            way = self.way(node_id)
            await self._travel(way)
            status, answer = 200, b"{}"
            if scope["path"].endswith("/renew"):
                try:
                    answer = msgspec.json.encode(await self.renew(msgspec.json.decode(body, type=Renew)))
                except DependencyError:
                    status = 503
            # The way back: the store has acted, and the guard does not hear of it, or late.
            await self._travel(way)
        else:
            self.refused += 1
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    async def _travel(self, way: Way) -> None:
        await way.open.wait()
        if way.late_s:
            await asyncio.sleep(self._rng.uniform(0, way.late_s))


@asynccontextmanager
async def serving(api: GuardApi) -> AsyncIterator[str]:
    async with listening(api, "127.0.0.1:0", setting="(test)") as url:
        assert url is not None
        yield url
