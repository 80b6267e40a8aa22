"""An API of the guard in memory, whose answers tests write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from core.domain.egress_errors import EgressError
from core.domain.guard_wire import Answer, Ask, Renew, Renewed, Route, Standing, Upstream, Usage
from core.errors import AppError

ALLOCATION, OTHER = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
CHIP, USER, NODE = (
    "00000000-0000-4000-8000-00000000000c",
    "00000000-0000-4000-8000-00000000000d",
    "00000000-0000-4000-8000-00000000000e",
)
UPSTREAM = Upstream("socks5", "127.0.0.1", 1080, "login-label", "hunter2", "generic")


def route(
    allocation_id: str = ALLOCATION,
    *,
    chip_id: str = CHIP,
    upstream: Upstream | None = UPSTREAM,
    why: EgressError | None = None,
    quota_left_bytes: int | None = None,
) -> Route:
    return Route(allocation_id, USER, chip_id, 1, "label", upstream, why, quota_left_bytes)


class FakeApi:
    """Grants whatever is in `current` (allocation -> grant) for `ttl_s`; everything else is revoked.

    `failure`: raised instead of an answer. `held_up`: awaited before an answer.
    """

    def __init__(self, ttl_s: float = 90.0) -> None:
        self.ttl_s = ttl_s
        self.current: dict[str, int] = {}
        self.waiting: set[str] = set()
        self.routes: list[Route] = []
        self.failure: AppError | None = None
        self.held_up: Callable[[], asyncio.Future[None]] | None = None
        self.heard: list[Renew] = []
        self.at: list[float] = []
        self.batches: list[Usage] = []
        self.usage_failure: AppError | None = None

    async def renew(self, renew: Renew) -> Renewed:
        self.heard.append(renew)
        self.at.append(asyncio.get_running_loop().time())
        if self.failure is not None:
            raise self.failure
        answers = tuple(self._answer(ask) for ask in renew.asks)
        granted = {answer.allocation_id for answer in answers if answer.standing is Standing.GRANTED}
        routes = tuple(one for one in self.routes if one.allocation_id in granted)
        if self.held_up is not None:
            await self.held_up()
        return Renewed(answers, routes)

    def _answer(self, ask: Ask) -> Answer:
        grant = self.current.get(ask.allocation_id)
        if grant is not None:
            return Answer(ask.allocation_id, Standing.GRANTED, grant, 1, self.ttl_s)
        waits = ask.allocation_id in self.waiting
        return Answer(ask.allocation_id, Standing.WAITING if waits else Standing.REVOKED)

    async def usage(self, usage: Usage) -> None:
        if self.usage_failure is not None:
            raise self.usage_failure
        self.batches.append(usage)

    @property
    def closed(self) -> list[Ask]:
        return [ask for renew in self.heard for ask in renew.closed]
