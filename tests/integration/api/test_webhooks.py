from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Sequence
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from core.crypto import Sealer, webhook_signature
from core.store import webhooks
from core.store.containers import container_secrets
from core.store.engine import Engine
from core.store.webhooks import InboxEvent
from tests.integration.api.conftest import Person, Running
from tests.integration.api.fleet import QR, STARTING

EVENT: dict[str, Any] = {
    "id": "evt_01",
    "timestamp": 1741249702485,
    "event": "session.status",
    "session": "chip_x",
    "payload": {"name": "chip_x", "status": "WORKING"},
}


class Hook:
    """A container that calls back."""

    def __init__(self, running: Running, person: Person, key: str) -> None:
        self.running, self.person, self.key = running, person, key

    async def send(self, body: Any, **more: Any) -> httpx.Response:
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return await self.raw(raw, webhook_signature(more.pop("key", self.key), raw), **more)

    async def raw(self, raw: bytes, signature: str | None, user: str | None = None) -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        if signature is not None:
            headers |= {"X-Webhook-Hmac": signature, "X-Webhook-Hmac-Algorithm": "sha512"}
        path = f"/api/v1/webhooks/waha/{user or self.person.id}"
        return await self.running.client.post(path, content=raw, headers=headers)

    async def inbox(self) -> list[Any]:
        return await self.running.sql("SELECT * FROM webhook_inbox ORDER BY received_at")


def told(chip_id: str, number: int, *statuses: str) -> dict[str, Any]:
    listed = [{"status": status} for status in statuses]
    payload = {"status": statuses[-1], "statuses": listed}
    return EVENT | {"id": f"evt_{number}", "session": f"chip_{chip_id}", "payload": payload}


@pytest.fixture
async def hook(running: Running) -> Hook:
    person = await running.person()
    await person.chip()
    sealer = Sealer(tuple(key.reveal() for key in running.settings.store.secret_keys))
    secrets = await container_secrets(running.engine, person.id, sealer)
    assert secrets is not None
    return Hook(running, person, secrets.hook_key)


async def test_an_event_is_stored_once(hook: Hook) -> None:
    first, again = await hook.send(EVENT), await hook.send(EVENT)
    assert (first.status_code, first.json()) == (200, {"status": "stored"})
    assert (again.status_code, again.json()) == (200, {"status": "duplicate"})
    [row] = await hook.inbox()
    assert (row.event_id, row.event, row.session) == ("evt_01", "session.status", "chip_x")
    assert str(row.user_id) == hook.person.id
    assert row.body == EVENT
    assert row.processed_at is None


async def test_the_same_event_many_times_at_once(hook: Hook) -> None:
    answers = await asyncio.gather(*(hook.send(EVENT) for _ in range(8)))
    assert sorted(answer.json()["status"] for answer in answers) == ["duplicate"] * 7 + ["stored"]
    assert len(await hook.inbox()) == 1


async def test_contents_of_messages_are_not_kept(hook: Hook) -> None:
    message = EVENT | {"event": "message", "payload": {"body": "a private word"}, "me": {"id": "55@c.us"}}
    assert (await hook.send(message)).status_code == 200
    [row] = await hook.inbox()
    assert row.body == {name: message[name] for name in ("id", "timestamp", "event", "session")}


async def test_the_inbox_is_announced_with_the_commit(hook: Hook, database_url: str) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    connection = await asyncpg.connect(database_url.replace("postgresql+asyncpg", "postgresql"))
    try:
        await connection.add_listener("inbox", lambda *news: heard.put_nowait(news[-1]))
        await hook.send(EVENT)
        assert await asyncio.wait_for(heard.get(), 3) == hook.person.id
        await hook.send(EVENT)
        await asyncio.sleep(0.2)
        assert heard.empty()  # nothing new
    finally:
        await connection.close()


async def test_who_may_not_call(hook: Hook) -> None:
    raw = msgspec.json.encode(EVENT)
    good = webhook_signature(hook.key, raw)
    other = await hook.running.person()
    await other.chip()
    without_container = await hook.running.person()
    cases: list[tuple[bytes, str | None, str | None]] = [
        (raw, None, None),
        (raw, "", None),
        (raw, "0" * 128, None),
        (raw, good[:-1], None),
        (raw, "ß" * 10, None),
        (raw + b" ", good, None),
        (raw, webhook_signature("another key", raw), None),
        (raw, good, other.id),
        (raw, good, without_container.id),
        (raw, good, str(uuid.uuid4())),
        (raw, good, "malformed"),
    ]
    for body, signature, user in cases:
        try:
            answer = await hook.raw(body, signature, user)
        except UnicodeEncodeError:
            continue
        assert (answer.status_code, answer.json()["code"]) == (401, "bad_signature")
    assert await hook.inbox() == []
    assert (await hook.raw(raw, good.upper())).status_code == 200


@pytest.mark.parametrize("body", [b"not json", b"", b"[]", b"\xff", {"event": "x", "session": "y"}])
async def test_what_is_no_event(hook: Hook, body: Any) -> None:
    answer = await hook.send(body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")
    assert await hook.inbox() == []


async def test_a_webhook_may_be_larger_than_other_bodies_and_not_endless(hook: Hook) -> None:
    large = EVENT | {"id": "evt_large", "payload": {"x": "y" * 900_000}}
    assert (await hook.send(large)).status_code == 200
    answer = await hook.send(EVENT | {"payload": {"x": "y" * 1_048_576}})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert len(await hook.inbox()) == 1


async def test_what_postgresql_cannot_hold_is_kept_without_it(hook: Hook) -> None:
    strange = EVENT | {"id": "e\0vt", "session": "chip\0", "payload": {"a\0": ["\0", 1e300, 10**30]}}
    assert (await hook.send(strange)).status_code == 200
    [row] = await hook.inbox()
    assert (row.event_id, row.session) == ("evt", "chip")
    assert list(row.body["payload"]) == ["a"]


async def test_what_could_not_be_stored_is_sent_again(hook: Hook) -> None:
    await hook.running.sql("ALTER TABLE webhook_inbox RENAME TO away")
    answer = await hook.send(EVENT)
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    await hook.running.sql("ALTER TABLE away RENAME TO webhook_inbox")
    assert (await hook.send(EVENT)).json() == {"status": "stored"}


async def test_a_wrong_secret_key_is_a_fault_of_ours_and_is_retried(hook: Hook) -> None:
    await hook.running.sql("UPDATE containers SET sealed_hook_key = 'rubbish'")
    answer = await hook.send(EVENT)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")


async def test_the_next_code_of_a_chip_that_shows_codes_wakes_nobody(hook: Hook, database_url: str) -> None:
    running, other = hook.running, await hook.running.person()
    [chip] = await running.sql("SELECT id FROM chips")
    theirs = str((await other.chip())["id"])
    mine, scan = str(chip.id), "SCAN_QR_CODE"
    heard: asyncio.Queue[str] = asyncio.Queue()
    connection = await asyncpg.connect(database_url.replace("postgresql+asyncpg", "postgresql"))
    await connection.add_listener("inbox", lambda *news: heard.put_nowait(news[-1]))
    numbers = itertools.count(1)

    async def wakes(chip_id: str, *statuses: str) -> bool:
        number = next(numbers)
        sent = told(chip_id, number, *statuses)
        assert (await hook.send(sent)).json() == {"status": "stored"}
        await connection.execute("SELECT 1")  # what was committed before is heard by then
        woken = not heard.empty()
        if woken:
            assert heard.get_nowait() == hook.person.id
        [row] = await running.sql(f"SELECT processed_at FROM webhook_inbox WHERE event_id = 'evt_{number}'")
        assert (row.processed_at is None) is woken  # who reads the inbox finds what would have woken
        return woken

    try:
        assert await wakes(mine, scan, scan)  # no pass has seen a code yet
        await running.daemon.saw(hook.person.id, chips={mine: QR})
        await running.daemon.saw(other.id, chips={theirs: QR})
        assert not await wakes(mine, scan, scan)
        assert not await wakes(mine, "STARTING", scan, scan)
        for statuses in [
            ("STARTING", scan),
            (scan,),
            (scan, scan, "WORKING"),
            (scan, "FAILED"),
            (scan, "X", scan),
        ]:
            assert await wakes(mine, *statuses), statuses
        assert await wakes(theirs, scan, scan)  # a container speaks for the chips of its own user
        assert await wakes(str(uuid.uuid4()), scan, scan)
        assert await wakes("x", scan, scan)
        for wish in ("disconnect", "reconnect"):
            await hook.person.post(f"/chips/{mine}/{wish}")
            assert await wakes(mine, scan, scan)  # no pass has looked at the wish yet
        await running.daemon.saw(hook.person.id, chips={mine: STARTING})
        assert await wakes(mine, scan, scan)
    finally:
        await connection.close()


async def test_what_comes_together_is_kept_together_and_answered_one_by_one(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[list[str]] = []
    real = webhooks.record

    async def counted(engine: Engine, user_id: str, events: Sequence[InboxEvent]) -> list[bool]:
        kept.append([event.id for event in events])
        return await real(engine, user_id, events)

    monkeypatch.setattr(webhooks, "record", counted)
    raws = [msgspec.json.encode(EVENT | {"id": f"evt_{number}"}) for number in range(10)]
    sent = [hook.raw(raw, webhook_signature(hook.key, raw)) for raw in (*raws, raws[3])]
    sent += [hook.send(b"not json"), hook.raw(raws[0], "0" * 128)]
    answers = await asyncio.gather(*sent)
    assert [answer.status_code for answer in answers] == [200] * 11 + [400, 401]
    assert sorted(answer.json()["status"] for answer in answers[:11]) == ["duplicate"] + ["stored"] * 10
    assert sorted(id_ for ids in kept for id_ in ids) == sorted([*(f"evt_{n}" for n in range(10)), "evt_3"])
    assert len(kept) <= 3
    assert len(await hook.inbox()) == 10


async def test_who_stops_waiting_takes_nothing_from_the_others(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, real = asyncio.Event(), webhooks.sealed_hook_key

    async def late(engine: Engine, user_id: str) -> bytes | None:
        await slow.wait()
        return await real(engine, user_id)

    monkeypatch.setattr(webhooks, "sealed_hook_key", late)
    sent = [asyncio.create_task(hook.send(EVENT | {"id": f"evt_{number}"})) for number in range(3)]
    await asyncio.sleep(0.2)
    sent[0].cancel()
    await asyncio.sleep(0)
    slow.set()
    assert [(await answer).json()["status"] for answer in sent[1:]] == ["stored"] * 2
