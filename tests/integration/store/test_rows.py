"""Container rows, the inbox and the operator's view of users."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from sqlalchemy import func, insert, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from core.crypto import SecretUnreadable
from core.domain.actions import ChipStatus, ContainerStatus, Placed
from core.domain.actor import COMMAND_LINE
from core.domain.facts import Endpoint
from core.domain.names import is_namespace
from core.domain.states import ContainerPhase
from core.errors import InvalidInput
from core.store import containers, inbox
from core.store.engine import transaction
from core.store.interface import Lease
from core.store.tables import containers as container_rows
from core.store.tables import webhook_inbox
from core.store.users_admin import ensure_user, find_user_id, set_password
from tests.contract.store.harness import PostgresHarness

ALLOCATION = str(uuid.UUID(int=5))


@pytest.fixture
def harness(engine: AsyncEngine) -> PostgresHarness:
    return PostgresHarness(engine)


async def test_a_container_is_made_once_with_secrets_of_its_own(harness: PostgresHarness) -> None:
    users = [await harness.user() for _ in range(3)]
    for user_id in users:
        await harness.container(user_id)
    first = [await harness.container_columns(user_id) for user_id in users]
    for user_id in users:
        await harness.container(user_id)
    assert [await harness.container_columns(user_id) for user_id in users] == first
    assert len({row["namespace"] for row in first if row}) == 3
    keys = set()
    for user_id, row in zip(users, first, strict=True):
        assert row is not None
        assert is_namespace(row["namespace"])
        secrets = await containers.container_secrets(harness.engine, user_id, harness.sealer)
        assert secrets is not None
        keys |= {secrets.api_key, secrets.hook_key}
        assert secrets.api_key.encode() not in row["sealed_api_key"]
    assert len(keys) == 6
    with pytest.raises(SecretUnreadable):
        await containers.container_secrets(harness.engine, users[0], PostgresHarness(harness.engine).sealer)


async def test_a_deleted_container_is_revived_with_the_same_secrets(harness: PostgresHarness) -> None:
    user_id = await harness.user()
    await harness.container(user_id)
    before = await containers.container_secrets(harness.engine, user_id, harness.sealer)
    async with transaction(harness.engine) as connection:
        await connection.execute(update(container_rows).values(deleted_at=func.clock_timestamp()))
    await harness.container(user_id)
    row = await harness.container_columns(user_id)
    assert row is not None
    assert (row["deleted_at"], row["generation"]) == (None, 2)
    assert await containers.container_secrets(harness.engine, user_id, harness.sealer) == before


async def test_what_an_operator_sees(harness: PostgresHarness) -> None:
    user_id = await harness.user()
    assert await containers.read_container(harness.engine, user_id) is None
    assert await containers.container_secrets(harness.engine, user_id, harness.sealer) is None
    chip_id, gone = await harness.chip(user_id), await harness.chip(user_id)
    await harness.wish(gone, "deleted")
    view = await containers.read_container(harness.engine, user_id)
    assert view is not None
    assert (view.container_name, view.job) == (f"waha_plus_user_{user_id}",) * 2
    assert (view.container_id, view.port, view.base_url, view.epoch) == (None, None, None, None)
    assert (view.status, view.chips, view.deleted) == ("created", 1, False)
    lease = await harness.store.claim(user_id, "one", 60)
    assert isinstance(lease, Lease)
    status = ContainerStatus(
        phase="ready",
        placed=Placed(ALLOCATION, str(uuid.UUID(int=6)), "host-1", "10.0.0.1", 3100),
        allocation_id=ALLOCATION,
        node_name="host-1",
        address="10.0.0.1",
        port=3100,
        endpoint=Endpoint("10.0.0.1", 3100, ALLOCATION),
    )
    await harness.store.write_status(
        lease, status, {chip_id: ChipStatus("qr", "WAITING_QR")}, {chip_id: 2}, 1
    )
    view = await containers.read_container(harness.engine, user_id)
    assert view is not None
    assert (view.container_id, view.node, view.address, view.port) == (
        ALLOCATION,
        "host-1",
        "10.0.0.1",
        3100,
    )
    assert (view.base_url, view.status, view.epoch) == ("http://10.0.0.1:3100", "running", 1)


async def test_containers_are_listed_page_by_page(harness: PostgresHarness) -> None:
    users = sorted([await harness.user() for _ in range(5)])
    for user_id in users:
        await harness.container(user_id)
    found: list[str] = []
    while page := await containers.list_containers(
        harness.engine, after=found[-1] if found else None, limit=2
    ):
        found.extend(view.user_id for view in page)
    assert found == users


@pytest.mark.parametrize("phase", list(ContainerPhase))
async def test_every_phase_has_a_word_of_dockers(harness: PostgresHarness, phase: ContainerPhase) -> None:
    user_id = await harness.user()
    await harness.container(user_id)
    async with transaction(harness.engine) as connection:
        await connection.execute(update(container_rows).values(phase=phase.value))
    view = await containers.read_container(harness.engine, user_id)
    assert view is not None
    assert view.status in ("created", "running", "restarting", "removing")


async def _mail(engine: AsyncEngine, user_id: str, count: int = 1) -> None:
    async with transaction(engine) as connection:
        for _ in range(count):
            await connection.execute(
                insert(webhook_inbox).values(
                    user_id=user_id, event_id=str(uuid.uuid4()), event="session.status", session="s", body={}
                )
            )


async def test_mail_waits_longest_first_until_a_pass_took_it_into_account(harness: PostgresHarness) -> None:
    engine = harness.engine
    one, two = await harness.user(), await harness.user()
    await _mail(engine, two)
    await _mail(engine, one, 3)
    await _mail(engine, two)
    assert await inbox.waiting_user_ids(engine) == (two, one)
    assert await inbox.waiting_user_ids(engine, limit=1) == (two,)
    seen = {mail.user_id: mail.newest_at for mail in await inbox.waiting(engine)}
    await _mail(engine, one)  # came while the pass was looking
    assert await inbox.mark_processed(engine, two, seen[two]) == 2
    assert await inbox.mark_processed(engine, one, seen[one]) == 3
    assert await inbox.mark_processed(engine, one, seen[one]) == 0
    assert await inbox.waiting_user_ids(engine) == (one,)


async def test_only_old_mail_that_was_read_is_purged(harness: PostgresHarness) -> None:
    engine = harness.engine
    user_id = await harness.user()
    await _mail(engine, user_id, 5)
    (mail,) = await inbox.waiting(engine)
    await inbox.mark_processed(engine, user_id, mail.newest_at)
    await _mail(engine, user_id)
    assert await inbox.purge(engine, 3600) == 0
    async with transaction(engine) as connection:
        await connection.execute(
            text("UPDATE webhook_inbox SET processed_at = processed_at - interval '2 h'")
        )
    assert await inbox.purge(engine, 3600, limit=3) == 3
    assert await inbox.purge(engine, 3600, limit=3) == 2
    assert await inbox.waiting_user_ids(engine) == (user_id,)


async def test_the_same_event_id_of_two_users_is_two_events(harness: PostgresHarness) -> None:
    row = {"event_id": "evt_1", "event": "session.status", "session": "s", "body": {}}
    async with transaction(harness.engine) as connection:
        for user_id in (await harness.user(), await harness.user()):
            await connection.execute(insert(webhook_inbox).values(user_id=user_id, **row))
    assert len(await inbox.waiting_user_ids(harness.engine)) == 2


async def _ensured(engine: AsyncEngine, email: str, password_hash: str = "hash") -> str:
    return await ensure_user(
        engine,
        email=email,
        password_hash=password_hash,
        name="Ana",
        phone="+5511999999999",
        plan_slug="enterprise",
    )


async def test_the_first_user_is_made_once_however_many_try(engine: AsyncEngine) -> None:
    ids = await asyncio.gather(*(_ensured(engine, email) for email in ("A@x.com", "a@X.com", " a@x.com ")))
    assert len(set(ids)) == 1
    assert await find_user_id(engine, "A@X.com") == ids[0]
    assert await find_user_id(engine, ids[0].upper()) == ids[0]
    assert await find_user_id(engine, str(uuid.uuid4())) is None
    assert await find_user_id(engine, "nobody") is None
    assert await set_password(engine, "A@x.com", "other", actor=COMMAND_LINE)
    assert not await set_password(engine, "b@x.com", "other", actor=COMMAND_LINE)
    with pytest.raises(InvalidInput):
        await ensure_user(engine, email="b@x.com", password_hash="", name="", phone="", plan_slug="gold")
