"""A guard in this process, with an API in memory and a strict SOCKS5 server behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest

from core.clock import boottime
from core.domain.chip_credentials import chip_password, chip_user, node_key
from core.domain.egress_errors import EgressError
from core.domain.guard_wire import Upstream
from core.settings_guard import GuardSettings
from core.settings_reader import Secret
from egress.main import Guard, running
from tests.integration.egress.doubles import Chip, Socks5, echo, knock, serving
from tests.unit.egress.fakes import ALLOCATION, CHIP, NODE, FakeApi, route

KEY = node_key(b"the cluster's secret", NODE)
LOGIN, PASSWORD = "login-0123456789ab", "hunter2"


def guard_settings(**changes: Any) -> GuardSettings:
    settings = GuardSettings(
        listen="127.0.0.1:0",
        status_listen="",
        node_id=NODE,
        key=Secret(KEY.hex()),
        api_url="http://127.0.0.1:1",
        destinations=("whatsapp.com", "whatsapp.net"),
        ports=(443,),
        ttl_s=90,
        renew_s=10,
        margin_s=20,
        tunnels=50,
        head_s=2,
        connect_s=2,
        idle_s=60,
        life_s=600,
    )
    return msgspec.structs.replace(settings, **changes)


def credential(chip_id: str = CHIP, allocation_id: str = ALLOCATION) -> tuple[str, str]:
    return chip_user(chip_id, allocation_id), chip_password(KEY, chip_id, allocation_id, 1)


class World:
    """A guard, what it asks and what it goes through. `echo_port`: of the host behind echo.whatsapp.net:443."""

    def __init__(self, guard: Guard, api: FakeApi, socks: Socks5, socks_port: int, echo_port: int) -> None:
        self.guard = guard
        self.api = api
        self.socks = socks
        self.socks_port = socks_port
        self.echo_port = echo_port
        self.chips: list[Chip] = []

    def via(self, scheme: str = "socks5", **changes: Any) -> Upstream:
        made = Upstream("socks5", "127.0.0.1", self.socks_port, LOGIN, PASSWORD, "dataimpulse")
        return msgspec.structs.replace(made, scheme=scheme, **changes)

    def routed(
        self,
        upstream: Upstream | None,
        allocation_id: str = ALLOCATION,
        *,
        chip_id: str = CHIP,
        grant: int = 1,
        why: EgressError | None = None,
        quota_left_bytes: int | None = None,
    ) -> None:
        self.api.current[allocation_id] = grant
        mine = (allocation_id, chip_id)
        self.api.routes = [
            *(one for one in self.api.routes if (one.allocation_id, one.chip_id) != mine),
            route(
                allocation_id, chip_id=chip_id, upstream=upstream, why=why, quota_left_bytes=quota_left_bytes
            ),
        ]

    async def knock(
        self,
        target: str = "echo.whatsapp.net:443",
        *,
        chip_id: str = CHIP,
        allocation_id: str = ALLOCATION,
        early: bytes = b"",
    ) -> Chip:
        chip = await knock(self.guard.address, *credential(chip_id, allocation_id), target, early)
        self.chips.append(chip)
        return chip

    async def until(self, condition: Any, within_s: float = 5.0) -> None:
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110 - sockets have no event of their own
                await asyncio.sleep(0.005)


@asynccontextmanager
async def world(**changes: Any) -> AsyncIterator[World]:
    api, socks = FakeApi(), Socks5()
    async with AsyncExitStack() as stack:
        echo_port = await stack.enter_async_context(serving(echo))
        socks_port = await stack.enter_async_context(serving(socks))
        socks.hosts["echo.whatsapp.net:443"] = ("127.0.0.1", echo_port)
        guard, work = await stack.enter_async_context(running(guard_settings(**changes), api, boottime()))
        made = World(guard, api, socks, socks_port, echo_port)
        made.routed(made.via())
        yield made
        assert [task for task in work if task.done()] == []
        for chip in made.chips:
            chip.close()
        assert socks.wrong == []


@pytest.fixture
async def w() -> AsyncIterator[World]:
    async with world() as made:
        yield made
