"""A guard's process against the API's process on PostgreSQL: leases, routes and usage, all of it real."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import text

from core.crypto import Sealer
from core.domain.actions import ContainerStatus, Placed
from core.domain.chip_credentials import chip_password, chip_user, node_key
from core.domain.quota import GIB
from core.domain.routes import ChipRoute, LabelWhy
from core.settings import load
from core.store.engine import engine_for, transaction
from core.store.interface import Lease, Written
from core.store.reconcile import PostgresReconcileStore
from core.store.tables import metadata
from sandbox.postgres import EmbeddedPostgres
from tests.contract.store.harness import PostgresHarness
from tests.integration.api.conftest import GUARD_SECRET, environment
from tests.integration.egress.api_process import ApiProcess, Line, api_process
from tests.integration.egress.doubles import Chip, Socks5, echo, knock, serving
from tests.integration.egress.process import GuardProcess, guard_process
from tests.unit.egress.fakes import NODE

PASSWORD = "secret of ana"  # as the harness gives it
LONG = {"TTL_S": "60", "RENEW_S": "1", "MARGIN_S": "13"}
SHORT = {"TTL_S": "6", "RENEW_S": "0.4", "MARGIN_S": "2.2"}
RENEW_S = 1.0
_EMPTIED = ", ".join(table.name for table in metadata.sorted_tables if table.name != "plans")


class World:
    """One user's container on the guard's node, with a chip that has a label, and a provider behind the guard."""

    def __init__(
        self, harness: PostgresHarness, api: ApiProcess, line: Line, api_url: str, socks: Socks5, folder: Path
    ) -> None:
        self.harness = harness
        self.api = api
        self.line = line
        self.api_url = api_url
        self.socks = socks
        self.user = self.chip = self.label = self.sub_user = ""
        self.allocation = str(uuid.uuid4())
        self.chips: list[Chip] = []
        self._folder = folder
        self._guards = 0

    def guard(self, times: dict[str, str]) -> Any:
        key = node_key(GUARD_SECRET.encode(), NODE).hex()
        self._guards += 1
        return guard_process(self.api_url, self._folder / f"guard-{self._guards}.log", KEY=key, **times)

    async def placed(self, allocation: str, node: str, port: int = 3100) -> None:
        lease = await self.harness.store.claim(self.user, "d1", 60)
        assert isinstance(lease, Lease)
        place = Placed(allocation, node, "host", "127.0.0.1", port)
        written = await self.harness.store.write_status(
            lease,
            ContainerStatus(
                phase="ready",
                placed=place,
                allocation_id=allocation,
                node_name="host",
                address="127.0.0.1",
                port=port,
            ),
            {},
            {},
            1,
        )
        assert isinstance(written, Written), written
        await self.harness.store.release(lease)

    async def assigned(self, why: LabelWhy) -> None:
        lease = await self.harness.store.claim(self.user, "d1", 60)
        assert isinstance(lease, Lease)
        route = await self.harness.store.assign_label(lease, self.chip, why)
        assert isinstance(route, ChipRoute)
        self.label = route.label
        await self.harness.store.release(lease)

    async def knock(self, guard: GuardProcess, generation: int = 1) -> Chip:
        key = node_key(GUARD_SECRET.encode(), NODE)
        password = chip_password(key, self.chip, self.allocation, generation)
        chip = await knock(guard.address, chip_user(self.chip, self.allocation), password)
        self.chips.append(chip)
        return chip

    async def connected(self, guard: GuardProcess) -> Chip:
        """A tunnel, tried as an engine does: an answer of the API may take longer than one knock waits for it."""
        async with asyncio.timeout(15):
            while (chip := await self.knock(guard)).status != 200:
                assert chip.reason == "not_current"
                await asyncio.sleep(0.1)
        return chip

    async def sql(self, statement: str, **values: Any) -> list[Any]:
        async with self.harness.engine.begin() as connection:
            result = await connection.execute(text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    async def counted(self) -> tuple[int, int, int]:
        """(bytes in, bytes out, tunnels) of the chip."""
        rows = await self.sql("SELECT bytes_in, bytes_out, tunnels FROM proxy_usage")
        assert len(rows) <= 1
        return tuple(rows[0]) if rows else (0, 0, 0)

    async def until(self, condition: Any, within_s: float = 15.0) -> None:
        async with asyncio.timeout(within_s):
            while not await condition():  # noqa: ASYNC110 - another process tells nobody
                await asyncio.sleep(0.05)

    async def until_counted(self, bytes_in: int) -> None:
        async def reached() -> bool:
            return (await self.counted())[0] >= bytes_in

        await self.until(reached)


class Stage(NamedTuple):
    """What the tests share: starting an API takes longer than what each of them then does."""

    database_url: str
    api: ApiProcess


@pytest.fixture(scope="module")
def stage(
    postgres: EmbeddedPostgres, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    url = postgres.create_database("guards_with_api", template=template_database)
    env = environment(url, None, WAHAFLEET_EGRESS="guard")
    with api_process(env, tmp_path_factory.mktemp("api") / "api.log") as api:
        yield Stage(url, api)
    postgres.drop_database("guards_with_api")


@asynccontextmanager
async def world(stage: Stage, folder: Path, times: dict[str, str] = LONG) -> AsyncIterator[World]:
    keys = tuple(key.reveal() for key in load(environment(stage.database_url, None)).store.secret_keys)
    async with AsyncExitStack() as stack:
        harness = PostgresHarness(engine_for(stage.database_url))
        stack.push_async_callback(harness.engine.dispose)
        harness.sealer = Sealer(keys)
        harness.store = PostgresReconcileStore(
            harness.engine, harness.sealer, label_secret=GUARD_SECRET.encode()
        )
        async with transaction(harness.engine) as connection:
            await connection.execute(text(f"TRUNCATE {_EMPTIED} RESTART IDENTITY"))
            await connection.execute(text("UPDATE plans SET proxy_gb_limit = 0"))
        more = {f"WAHAFLEET_GUARD_{name}": value for name, value in times.items()}
        await asyncio.to_thread(stage.api.running_with, more)
        line, socks = Line(stage.api.port), Socks5(PASSWORD)
        line_port = await stack.enter_async_context(serving(line))
        socks_port = await stack.enter_async_context(serving(socks))
        echo_port = await stack.enter_async_context(serving(echo))
        socks.hosts["echo.whatsapp.net:443"] = ("127.0.0.1", echo_port)
        w = World(harness, stage.api, line, f"http://127.0.0.1:{line_port}", socks, folder)
        w.user = await harness.user()
        w.chip = await harness.chip(w.user)
        await harness.provider("local")
        await harness.change_provider("local", host="127.0.0.1", port=socks_port)
        w.sub_user = await harness.sub_user("local", "ana")
        await w.assigned(LabelWhy.FIRST)
        await w.placed(w.allocation, NODE)
        try:
            yield w
        finally:
            for chip in w.chips:
                chip.close()
        assert socks.wrong == []


async def test_a_chip_goes_out_by_its_label_and_is_counted(stage: Stage, tmp_path: Path) -> None:
    async with world(stage, tmp_path) as w, w.guard(LONG) as guard:
        chip = await w.connected(guard)
        data = bytes(range(256)) * 40
        assert await chip.said(data) == data
        assert [login.username for login in w.socks.logins] == [f"ana-{w.label}"]
        await w.until_counted(len(data))
        assert await w.counted() == (len(data), len(data), 1)
        assert await w.sql("SELECT provider_slug, user_id::text FROM proxy_usage") == [("local", w.user)]


async def test_the_api_is_away_for_a_while(stage: Stage, tmp_path: Path) -> None:
    """Who has a lease goes on, a chip of the same container gets its tunnel, and nothing that was used is lost."""
    async with world(stage, tmp_path) as w, w.guard(LONG) as guard:
        chip = await w.connected(guard)
        await asyncio.to_thread(w.api.kill)
        assert await chip.said(b"x" * 1000) == b"x" * 1000
        again = await w.knock(guard)
        assert again.status == 200
        assert await again.said(b"y" * 500) == b"y" * 500
        await asyncio.sleep(2 * RENEW_S)
        assert await w.counted() == (0, 0, 0)
        await asyncio.to_thread(w.api.start)
        await w.until_counted(1500)
        assert await w.counted() == (1500, 1500, 2)
        assert await chip.said(b"still the same tunnel") == b"still the same tunnel"


async def test_a_lease_ends_while_the_api_is_away_and_comes_back(stage: Stage, tmp_path: Path) -> None:
    async with world(stage, tmp_path, SHORT) as w, w.guard(SHORT) as guard:
        chip = await w.connected(guard)
        await asyncio.to_thread(w.api.kill)
        assert await chip.is_cut(8)
        refused = await w.knock(guard)
        assert (refused.status, refused.reason) == (403, "not_current")
        await asyncio.to_thread(w.api.start)

        async def knocks() -> bool:
            return (await w.knock(guard)).status == 200

        await w.until(knocks)
        assert {login.username for login in w.socks.logins} == {f"ana-{w.label}"}


async def test_a_container_that_moved_away_is_cut_and_its_lease_is_free(stage: Stage, tmp_path: Path) -> None:
    async with world(stage, tmp_path) as w, w.guard(LONG) as guard:
        chip = await w.connected(guard)
        await w.placed(str(uuid.uuid4()), str(uuid.uuid4()), 3101)
        assert await chip.is_cut()

        async def is_free() -> bool:
            return await w.sql(
                "SELECT lease_until IS NULL FROM placements WHERE allocation_id = :id", id=w.allocation
            ) == [(True,)]

        await w.until(is_free)
        refused = await w.knock(guard)
        assert (refused.status, refused.reason) == (403, "not_current")


async def test_what_is_told_again_counts_once(stage: Stage, tmp_path: Path) -> None:
    async with world(stage, tmp_path) as w, w.guard(LONG) as guard:
        chip = await w.connected(guard)
        w.line.loses = b"/internal/guard/usage"
        assert await chip.said(b"x" * 1000) == b"x" * 1000
        await w.until_counted(1000)

        async def lost_some() -> bool:
            return w.line.lost >= 3

        await w.until(lost_some)
        assert await chip.said(b"y" * 300) == b"y" * 300
        w.line.loses = b""
        await w.until_counted(1300)
        await asyncio.sleep(2 * RENEW_S)
        assert await w.counted() == (1300, 1300, 1)


async def test_a_killed_guard_loses_one_period_and_no_label(stage: Stage, tmp_path: Path) -> None:
    async with world(stage, tmp_path) as w:
        async with w.guard(LONG) as guard:
            chip = await w.connected(guard)
            assert await chip.said(b"x" * 1000) == b"x" * 1000
            await w.until_counted(1000)
            assert await chip.said(b"y" * 500) == b"y" * 500
            await guard.kill()
            assert await chip.is_cut()
        assert (await w.counted())[0] in (1000, 1500)
        before = (await w.counted())[0]
        async with w.guard(LONG) as guard:
            chip = await w.connected(guard)  # long before the lease of the one before has run out
            assert await chip.said(b"z" * 10) == b"z" * 10
            await w.until_counted(before + 10)
        assert {login.username for login in w.socks.logins} == {f"ana-{w.label}"}


async def test_a_refused_login_is_the_sub_users_trouble_until_it_works(stage: Stage, tmp_path: Path) -> None:
    async with world(stage, tmp_path) as w, w.guard(LONG) as guard:

        async def trouble() -> str | None:
            [(found,)] = await w.sql("SELECT trouble FROM sub_users")
            return str(found) if found else None

        async def in_trouble() -> bool:
            return await trouble() == "proxy_auth"

        async def well() -> bool:
            return await trouble() is None

        w.socks.password = "another"
        refused = await w.knock(guard)
        assert (refused.status, refused.reason) == (502, "proxy_auth")
        await w.until(in_trouble)
        w.socks.password = PASSWORD
        await w.connected(guard)
        await w.until(well)


async def test_a_used_up_quota_refuses_new_tunnels(stage: Stage, tmp_path: Path) -> None:
    async with world(stage, tmp_path) as w, w.guard(LONG) as guard:
        await w.sql("UPDATE plans SET proxy_gb_limit = 0.001 WHERE slug = 'enterprise'")
        chip = await w.connected(guard)
        for _ in range(10):
            await chip.said(b"x" * 60_000)
        await w.until_counted(GIB // 2000)

        async def is_refused() -> bool:
            found = await w.knock(guard)
            return (found.status, found.reason) == (403, "quota")

        await w.until(is_refused)
        assert await chip.said(b"open ones go on") == b"open ones go on"
        events = await w.sql("SELECT code FROM chip_events WHERE code LIKE 'proxy_quota%' ORDER BY id")
        assert events == [("proxy_quota_80",), ("proxy_quota_100",)]


async def test_another_label_moves_the_chip_to_it(stage: Stage, tmp_path: Path) -> None:
    async with world(stage, tmp_path) as w, w.guard(LONG) as guard:
        chip, first = await w.connected(guard), w.label
        await w.assigned(LabelWhy.REQUESTED)
        assert await chip.is_cut()
        again = await w.knock(guard)  # with the credential of the label before
        assert again.status == 200
        assert first != w.label
        assert [login.username for login in w.socks.logins] == [f"ana-{first}", f"ana-{w.label}"]
