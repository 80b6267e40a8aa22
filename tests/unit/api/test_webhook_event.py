from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.hook_events import inbox_event
from core.errors import InvalidInput

ENVELOPE: dict[str, Any] = {
    "id": "evt_1",
    "timestamp": 1741249702485,
    "event": "message",
    "session": "chip_1",
    "metadata": {"user": "x"},
    "me": {"id": "5511999999999@c.us", "pushName": "Ana"},
    "payload": {"body": "a private word", "from": "5511888888888@c.us"},
    "engine": "GOWS",
    "environment": {"version": "2026.7.1"},
}


def event(**changes: Any) -> Any:
    return inbox_event(msgspec.json.encode(ENVELOPE | changes))


def test_contents_of_messages_are_not_kept() -> None:
    kept = event()
    assert (kept.id, kept.event, kept.session) == ("evt_1", "message", "chip_1")
    assert set(kept.body) == {"id", "timestamp", "event", "session", "metadata", "engine", "environment"}
    assert "private" not in repr(kept)


def test_a_status_is_kept_whole() -> None:
    payload = {"name": "chip_1", "status": "WORKING", "statuses": []}
    kept = event(event="session.status", payload=payload)
    assert kept.body["payload"] == payload
    assert kept.body["me"] == ENVELOPE["me"]


@pytest.mark.parametrize(
    "changes",
    [{"id": None}, {"id": ""}, {"id": 5}, {"event": None}, {"event": ""}, {"session": 1}],
)
def test_what_is_no_event(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        event(**changes)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize("raw", [b"", b"[]", b'"x"', b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object(raw: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        inbox_event(raw)
    assert caught.value.code == "invalid_json"


def test_long_ids_stay_distinct() -> None:
    one, other = event(id="x" * 100 + "1"), event(id="x" * 100 + "2")
    assert one.id != other.id
    assert max(len(one.id), len(other.id)) <= 80


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)
)


@given(JSON)
def test_what_is_kept_fits_postgresql(payload: Any) -> None:
    kept = event(event="session.status", payload=payload, session="a\0b" * 100)
    assert "\\u0000" not in msgspec.json.encode(kept).decode()
    assert len(kept.session) <= 80
