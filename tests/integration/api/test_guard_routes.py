"""The internal routes for guards: who is let in, what they are told, and what is counted once."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from core.domain.chip_credentials import node_key
from core.domain.egress_errors import EgressError
from core.domain.guard_wire import Ask, Renew, Renewed, Standing, Upstream, Usage, UsageRow
from core.domain.quota import GIB
from core.domain.routes import ChipRoute, LabelWhy, NoRoute
from core.store.interface import Lease
from tests.integration.api.conftest import GUARD_SECRET, Person, Running, Start

RENEW, USAGE = "/internal/guard/renew", "/internal/guard/usage"
E = EgressError


class Kit:
    """An API with a provider, one user with a container on a node, and that node's guard."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.node = running.daemon.node
        self.allocation = running.daemon.allocation
        self.sub_user = str(uuid.uuid4())

    async def prepare(self) -> Kit:
        await self.running.sql(
            "INSERT INTO providers (slug, title, template, scheme, host, port, is_default)"
            " VALUES ('local', 'Local', 'generic', 'socks5', '127.0.0.1', 1081, true)"
        )
        await self.running.sql(
            "INSERT INTO sub_users (id, provider_slug, login, sealed_password) VALUES (:id, 'local', 'ana', :sealed)",
            id=self.sub_user,
            sealed=self.running.app.state.services.vault.sealer.seal("hunter2"),
        )
        return self

    async def chip(self, person: Person, alias: str = "vendas", *, labelled: bool = True) -> str:
        chip_id = str((await person.chip(alias))["id"])
        await self.running.daemon.saw(person.id)
        if labelled:
            await self.labelled(person, chip_id)
        return chip_id

    async def labelled(
        self, person: Person, chip_id: str, why: LabelWhy = LabelWhy.FIRST
    ) -> ChipRoute | NoRoute:
        store = self.running.daemon.store
        lease = await store.claim(person.id, "test", 60)
        assert isinstance(lease, Lease)
        found = await store.assign_label(lease, chip_id, why)
        await store.release(lease)
        return found

    async def send(self, path: str, body: Any, authorization: str | None = None) -> httpx.Response:
        key = node_key(GUARD_SECRET.encode(), self.node).hex()
        headers = {"Authorization": authorization or f"Guard {self.node}:{key}"}
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return await self.running.client.post(path, content=content, headers=headers)

    async def renew(self, *asks: Ask, closed: tuple[Ask, ...] = ()) -> Renewed:
        answer = await self.send(RENEW, Renew(self.node, 1, asks or (Ask(self.allocation),), closed))
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        return msgspec.json.decode(answer.content, type=Renewed)

    def row(self, user_id: str, chip_id: str, **values: Any) -> UsageRow:
        made = UsageRow(chip_id, self.allocation, user_id, "generic", 0, 0, 0, {}, self.sub_user)
        return msgspec.structs.replace(made, **values)

    async def used(self, *rows: UsageRow, batch: str | None = None) -> None:
        answer = await self.send(USAGE, Usage(self.node, batch or str(uuid.uuid4()), rows))
        assert (answer.status_code, answer.content) == (204, b"")

    async def counted(self) -> list[Any]:
        return [
            tuple(row)
            for row in await self.running.sql(
                "SELECT chip_id::text, user_id::text, provider_slug, bytes_in, bytes_out, tunnels, errors"
                " FROM proxy_usage ORDER BY chip_id, provider_slug"
            )
        ]

    async def troubles(self) -> tuple[str | None, str | None]:
        [(provider,)] = await self.running.sql("SELECT trouble FROM providers")
        [(sub_user,)] = await self.running.sql("SELECT trouble FROM sub_users")
        return provider, sub_user


@pytest.fixture
async def kit(start: Start) -> AsyncIterator[Kit]:
    async with start(WAHAFLEET_EGRESS="guard") as running:
        yield await Kit(running).prepare()


def code(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


async def test_a_guard_proves_its_node_and_speaks_for_it_alone(kit: Kit) -> None:
    renew, other = Renew(kit.node, 1), str(uuid.uuid4())
    others_key = node_key(GUARD_SECRET.encode(), other).hex()
    own_key = node_key(GUARD_SECRET.encode(), kit.node).hex()
    for path in (RENEW, USAGE):
        for wrong in (
            f"Guard {kit.node}:{others_key}",
            f"Guard {kit.node}:{own_key.upper()}",
            f"Guard {kit.node.upper()}:{own_key}",
            f"Guard node-1:{node_key(GUARD_SECRET.encode(), 'node-1').hex()}",
            f"Bearer {own_key}",
            f"Guard {kit.node}",
            "Guard ",
        ):
            assert code(await kit.send(path, renew, wrong)) == (401, "bad_guard_key")
    assert (await kit.running.client.post(RENEW)).status_code == 401
    assert (await kit.running.client.get(RENEW)).status_code == 405
    foreign = f"Guard {other}:{others_key}"
    assert code(await kit.send(RENEW, renew, foreign)) == (403, "not_its_node")
    usage = Usage(kit.node, str(uuid.uuid4()), ())
    assert code(await kit.send(USAGE, usage, foreign)) == (403, "not_its_node")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"node_id":1,"sent_no":1}',
        Renew("NODE", 1, (Ask("x"),)),
        Renew("NODE", 1, (), (Ask("' OR 1=1", 1),)),
        Usage("NODE", "x", ()),
    ],
)
async def test_what_cannot_be_read(kit: Kit, body: Any) -> None:
    if not isinstance(body, bytes):
        body = msgspec.structs.replace(body, node_id=kit.node)
    path = USAGE if isinstance(body, Usage) else RENEW
    assert code(await kit.send(path, body)) == (400, "bad_request")


async def test_nobody_is_let_in_without_the_secret(start: Start) -> None:
    async with start(WAHAFLEET_GUARD_SECRET="") as running:
        for path in (RENEW, USAGE):
            assert code(await running.client.post(path, json={})) == (404, "route_not_found")


async def test_the_routes_are_no_part_of_the_public_document(kit: Kit) -> None:
    document = (await kit.running.client.get("/schema/openapi.json")).json()
    assert not [path for path in document["paths"] if "internal" in path]


async def test_a_guard_is_not_counted_for_its_address_and_who_pretends_is(start: Start) -> None:
    async with start(WAHAFLEET_LIMIT_ADDRESS="5") as running:
        kit = Kit(running)
        for _ in range(20):
            await kit.renew()
        wrong = f"Guard {kit.node}:{'0' * 64}"
        answers = [(await kit.send(RENEW, Renew(kit.node, 1), wrong)).status_code for _ in range(40)]
        assert answers[0] == 401
        assert answers[-1] == 429


async def test_a_granted_allocation_comes_with_the_routes_of_its_chips(kit: Kit) -> None:
    person = await kit.running.person()
    chip, bare = await kit.chip(person), await kit.chip(person, "suporte", labelled=False)
    elsewhere = str(uuid.uuid4())
    renewed = await kit.renew(Ask(kit.allocation), Ask(elsewhere))
    granted, revoked = renewed.answers
    assert (granted.allocation_id, granted.standing) == (kit.allocation, Standing.GRANTED)
    assert granted.ttl_s == 90
    assert (revoked.allocation_id, revoked.standing) == (elsewhere, Standing.REVOKED)
    routes = {route.chip_id: route for route in renewed.routes}
    assert set(routes) == {chip, bare}
    [(label,)] = await kit.running.sql("SELECT label FROM labels")
    found = routes[chip]
    assert found.upstream == Upstream("socks5", "127.0.0.1", 1081, f"ana-{label}", "hunter2", "generic")
    assert (found.label, found.label_generation, found.sub_user_id) == (label, 1, kit.sub_user)
    assert (found.user_id, found.why, found.quota_left_bytes) == (person.id, None, None)
    assert (routes[bare].upstream, routes[bare].why) == (None, E.NO_UPSTREAM)
    again = await kit.renew(Ask(kit.allocation, granted.grant))
    assert again.answers[0].grant == granted.grant
    assert again.routes == renewed.routes
    freed = await kit.renew(Ask(elsewhere), closed=(Ask(kit.allocation, granted.grant),))
    assert freed.routes == ()
    assert (await kit.renew()).answers[0].grant not in (granted.grant, None)


async def test_the_routes_of_a_node_are_not_told_to_another(kit: Kit) -> None:
    person = await kit.running.person()
    await kit.chip(person)
    own, kit.node = kit.node, str(uuid.uuid4())
    renewed = await kit.renew()
    assert renewed.answers[0].standing is Standing.REVOKED
    assert renewed.routes == ()
    kit.node = own
    assert (await kit.renew()).routes


async def test_a_label_that_is_not_to_be_used_carries_nothing(kit: Kit) -> None:
    person = await kit.running.person()
    chip = await kit.chip(person)
    for change in (
        "UPDATE providers SET enabled = {}",
        "UPDATE sub_users SET enabled = {}",
        "UPDATE labels SET released_at = CASE WHEN {} THEN NULL ELSE clock_timestamp() END",
    ):
        await kit.running.sql(change.format("false"))
        [route] = (await kit.renew()).routes
        assert (route.chip_id, route.upstream, route.why) == (chip, None, E.NO_UPSTREAM)
        await kit.running.sql(change.format("true"))
        [route] = (await kit.renew()).routes
        assert route.upstream is not None
    # Trouble closes nothing: whoever runs shows when it ends.
    await kit.running.sql(
        "UPDATE providers SET trouble = 'traffic_exhausted', trouble_at = clock_timestamp()"
    )
    [route] = (await kit.renew()).routes
    assert route.upstream is not None


async def test_a_batch_counts_once(kit: Kit) -> None:
    person = await kit.running.person()
    chip, other = await kit.chip(person), await kit.chip(person, "suporte")
    batch = str(uuid.uuid4())
    rows = (
        kit.row(person.id, chip, bytes_in=10, bytes_out=5, tunnels=2, errors={E.NO_PEER: 1, E.QUOTA: 2}),
        kit.row(person.id, other, bytes_in=7),
    )
    for _ in range(3):
        await kit.used(*rows, batch=batch)
    first = sorted(
        [
            (chip, person.id, "local", 10, 5, 2, {"no_peer": 1, "quota": 2}),
            (other, person.id, "local", 7, 0, 0, {}),
        ]
    )
    assert await kit.counted() == first
    more = kit.row(person.id, chip, bytes_out=1, errors={E.QUOTA: 1, E.PROXY_AUTH: 4})
    await kit.used(more, kit.row(person.id, chip, tunnels=1), kit.row(person.id, other))
    assert await kit.counted() == sorted(
        [
            (chip, person.id, "local", 10, 6, 3, {"no_peer": 1, "quota": 3, "proxy_auth": 4}),
            (other, person.id, "local", 7, 0, 0, {}),
        ]
    )


async def test_batches_that_come_together_all_count_and_each_once(kit: Kit) -> None:
    person = await kit.running.person()
    await kit.running.sql("UPDATE plans SET proxy_gb_limit = 1 WHERE slug = 'enterprise'")
    made = [await kit.chip(person, f"chip {n}") for n in range(4)]
    drawn = random.Random(11)
    batches = []
    for number in range(12):
        chips = drawn.sample(made, 3)
        errors = {E.NO_PEER: 1, E.THREADS_EXHAUSTED: number % 2}
        rows = tuple(
            kit.row(person.id, chip, bytes_in=GIB // 30, tunnels=number % 3, errors=errors) for chip in chips
        )
        batches += 2 * [(str(uuid.uuid4()), rows)]
    drawn.shuffle(batches)
    await asyncio.gather(*(kit.used(*rows, batch=batch) for batch, rows in batches))
    counted = await kit.counted()
    assert sum(row[3] for row in counted) == 36 * (GIB // 30)
    assert sum(row[6]["no_peer"] for row in counted) == 36
    assert [one for _, one in await quota_events(kit)] == ["proxy_quota_80", "proxy_quota_100"]


async def test_traffic_without_a_known_sub_user_goes_to_the_labels_provider(kit: Kit) -> None:
    person = await kit.running.person()
    chip, bare = await kit.chip(person), await kit.chip(person, "suporte", labelled=False)
    gone = str(uuid.uuid4())
    await kit.used(
        kit.row(person.id, chip, bytes_in=1, sub_user_id=""),
        kit.row(person.id, chip, bytes_in=1, sub_user_id=gone),
        kit.row(person.id, bare, bytes_in=1, sub_user_id="x"),
    )
    assert {(row[0], row[2], row[3]) for row in await kit.counted()} == {
        (chip, "local", 2),
        (bare, "generic", 1),
    }


async def test_a_guard_counts_for_allocations_of_its_node_alone(kit: Kit) -> None:
    person, other = await kit.running.person(), await kit.running.person()
    chip = await kit.chip(person)
    await kit.used(
        kit.row(other.id, chip, bytes_in=1),
        kit.row(person.id, chip, bytes_in=2, allocation_id=str(uuid.uuid4())),
        kit.row(person.id, "x", bytes_in=4),
        kit.row(person.id, chip, bytes_in=-8),
        kit.row(person.id, chip, bytes_in=2**63 - 1),
        kit.row(person.id, chip, bytes_in=16),
    )
    assert [row[3] for row in await kit.counted()] == [16]
    kit.node = str(uuid.uuid4())
    await kit.used(kit.row(person.id, chip, bytes_in=32))
    assert [row[3] for row in await kit.counted()] == [16]


async def test_trouble_of_provider_and_sub_user(kit: Kit) -> None:
    person = await kit.running.person()
    chip = await kit.chip(person)
    await kit.used(kit.row(person.id, chip, errors={E.PROXY_AUTH: 1}))
    assert await kit.troubles() == (None, "proxy_auth")
    late = await kit.chip(person, "tarde", labelled=False)
    assert await kit.labelled(person, late) == NoRoute(E.PROXY_AUTH)
    await kit.used(kit.row(person.id, chip, errors={E.TRAFFIC_EXHAUSTED: 1}))
    assert await kit.troubles() == ("traffic_exhausted", "proxy_auth")
    assert await kit.labelled(person, late) == NoRoute(E.TRAFFIC_EXHAUSTED)
    await kit.used(kit.row(person.id, chip, bytes_in=5, errors={E.NO_PEER: 1}))  # says nothing of either
    assert await kit.troubles() == ("traffic_exhausted", "proxy_auth")
    await kit.used(kit.row(person.id, chip, tunnels=1))
    assert await kit.troubles() == (None, None)
    assert isinstance(await kit.labelled(person, late), ChipRoute)
    await kit.used(kit.row(person.id, chip, tunnels=3, errors={E.THREADS_EXHAUSTED: 1}))
    assert await kit.troubles() == (None, "threads_exhausted")


async def quota_events(kit: Kit) -> list[tuple[str, str]]:
    query = "SELECT chip_id::text, code FROM chip_events WHERE code LIKE 'proxy_quota%' ORDER BY id"
    return [tuple(row) for row in await kit.running.sql(query)]


async def test_a_quota_is_told_of_once_a_month_and_refuses_new_chips(kit: Kit) -> None:
    person = await kit.running.person()
    await kit.running.sql("UPDATE plans SET proxy_gb_limit = 1 WHERE slug = 'enterprise'")
    quiet, chip = await kit.chip(person, "quieto"), await kit.chip(person)
    await kit.used(kit.row(person.id, chip, bytes_in=GIB // 2))
    assert await quota_events(kit) == []
    assert {route.quota_left_bytes for route in (await kit.renew()).routes} == {GIB // 2}
    await kit.used(
        kit.row(person.id, quiet, bytes_in=1), kit.row(person.id, chip, bytes_out=GIB * 3 // 10 + 2)
    )
    assert await quota_events(kit) == [(chip, "proxy_quota_80")]
    await kit.used(kit.row(person.id, chip, bytes_out=1))
    assert await quota_events(kit) == [(chip, "proxy_quota_80")]
    assert (await person.post("/chips", json={"alias": "mais um"})).status_code == 201
    await kit.used(kit.row(person.id, quiet, bytes_out=GIB))
    assert await quota_events(kit) == [(chip, "proxy_quota_80"), (quiet, "proxy_quota_100")]
    assert {route.quota_left_bytes for route in (await kit.renew()).routes} == {0}
    refused = await person.post("/chips", json={"alias": "demais"})
    assert code(refused) == (402, "proxy_quota")
    # What was used before this month counts no more.
    await kit.running.sql("UPDATE proxy_usage SET month = (month - interval '1 month')::date")
    await kit.running.sql("UPDATE quota_notices SET month = (month - interval '1 month')::date")
    assert (await person.post("/chips", json={"alias": "demais"})).status_code == 201
    await kit.used(kit.row(person.id, chip, bytes_out=2 * GIB))
    assert [one for _, one in await quota_events(kit)][2:] == ["proxy_quota_80", "proxy_quota_100"]


async def test_the_store_is_away(kit: Kit) -> None:
    await kit.running.sql("ALTER TABLE placements RENAME TO placements_away")
    try:
        for path, body in ((RENEW, Renew(kit.node, 1, (Ask(kit.allocation),))), (USAGE, None)):
            row = kit.row(str(uuid.uuid4()), str(uuid.uuid4()), bytes_in=1)
            answer = await kit.send(path, body or Usage(kit.node, str(uuid.uuid4()), (row,)))
            assert code(answer) == (503, "service_unavailable")
            assert answer.headers["retry-after"] == "2"
        assert await kit.running.sql("SELECT * FROM usage_batches") == []
    finally:
        await kit.running.sql("ALTER TABLE placements_away RENAME TO placements")
