"""Every event that WAHA has, as it is posted: stored once, whatever comes again and in whatever order."""

from __future__ import annotations

import asyncio
import json
import random

import pytest

from api.hook_events import inbox_event
from tests.fixtures.waha_events import RECORDED, SPECIFIED, all_events
from tests.integration.api.conftest import Running
from tests.integration.api.test_webhooks import Hook, hook

__all__ = ["hook"]

# WAHA 2026.7.1, the names of its OpenAPI document.
NAMES = {
    "session.status",
    "message",
    "message.any",
    *(f"message.{name}" for name in ("reaction", "ack", "ack.group", "waiting", "edited", "revoked")),
    *(f"group.v2.{name}" for name in ("join", "leave", "update", "participants")),
    "presence.update",
    "poll.vote",
    "poll.vote.failed",
    "chat.archive",
    *(f"call.{name}" for name in ("received", "accepted", "rejected")),
    *(f"label.{name}" for name in ("upsert", "deleted", "chat.added", "chat.deleted")),
    "event.response",
    "event.response.failed",
    "engine.event",
    "state.change",
    "group.join",
    "group.leave",
}


def test_there_is_one_of_each_name_and_none_of_them_twice() -> None:
    names = {path: str(json.loads(path.read_bytes())["event"]) for path in all_events()}
    assert set(names.values()) == NAMES
    assert {names[path] for path in names if path.parent == SPECIFIED}.isdisjoint(
        names[path] for path in names if path.parent == RECORDED
    )
    assert len({json.loads(path.read_bytes())["id"] for path in names}) == len(names)


@pytest.mark.parametrize("raw", [pytest.param(path.read_bytes(), id=path.stem) for path in all_events()])
async def test_each_event_is_stored_once_with_what_a_hint_needs(hook: Hook, raw: bytes) -> None:
    envelope = json.loads(raw)
    assert (await hook.send(raw)).json() == {"status": "stored"}
    assert (await hook.send(raw)).json() == {"status": "duplicate"}
    [row] = await hook.inbox()
    assert (row.event_id, row.event, row.session) == (envelope["id"], envelope["event"], envelope["session"])
    assert row.body == inbox_event(raw).body
    # What people wrote to each other is none of our business.
    assert ("payload" in row.body) is (envelope["event"] == "session.status")


@pytest.mark.parametrize("seed", range(3))
async def test_all_of_them_out_of_order_and_some_again(hook: Hook, running: Running, seed: int) -> None:
    raws = [path.read_bytes() for path in all_events()]
    rng = random.Random(seed)
    sent = rng.choices(raws, k=30) + raws
    rng.shuffle(sent)
    answers = []
    for start in range(0, len(sent), 5):
        answers += await asyncio.gather(*(hook.send(raw) for raw in sent[start : start + 5]))
    assert {answer.status_code for answer in answers} == {200}
    assert [answer.json()["status"] for answer in answers].count("stored") == len(raws)
    stored = {row.event_id for row in await hook.inbox()}
    assert stored == {json.loads(raw)["id"] for raw in raws}
