from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.history import StoredEvent, event_id, event_number, event_view
from core.domain.states import ChipStatusWord

NOW = datetime(2026, 7, 1, tzinfo=UTC)


def event(extra: dict[str, Any], type_: str = "status_change") -> StoredEvent:
    return StoredEvent(7, type_, "connected", "Chip conectado ao WhatsApp.", extra, NOW)


@given(st.integers(0, 2**62 - 1))
def test_an_id_is_a_uuid_and_stands_for_its_number(number: int) -> None:
    id_ = event_id(number)
    assert str(uuid.UUID(id_)) == id_
    assert uuid.UUID(id_).version == 8
    assert uuid.UUID(id_).variant == uuid.RFC_4122
    assert event_number(id_) == number


@given(st.integers(0, 2**62 - 1), st.integers(0, 2**62 - 1))
def test_ids_are_ordered_as_their_numbers(one: int, other: int) -> None:
    assert (event_id(one) < event_id(other)) == (one < other)


@given(st.uuids() | st.text())
def test_what_is_no_id_of_ours_is_none(text: Any) -> None:
    number = event_number(str(text))
    assert number is None or event_id(number) == str(uuid.UUID(str(text)))


@pytest.mark.parametrize("word", list(ChipStatusWord))
def test_letter_case_holds_for_status_words_where_they_stand(word: ChipStatusWord) -> None:
    stored = event({"from": "WAITING_QR", "to": word.value, "phase": "qr", "reason": None, "by": "CONNECTED"})
    upper, lower = (event_view(stored, lower_case=case).extra_data for case in (False, True))
    assert (upper["from"], upper["to"], upper["status"]) == ("WAITING_QR", word.value, word.value)
    assert (lower["from"], lower["to"], lower["status"]) == (
        "waiting_qr",
        word.value.lower(),
        word.value.lower(),
    )
    assert lower["by"] == "CONNECTED"  # somebody's name is no status
    assert upper["code"] == lower["code"] == "connected"


def test_other_kinds_say_no_status_of_their_own() -> None:
    assert event_view(event({"to": "x"}, "info"), lower_case=True).extra_data == {
        "to": "x",
        "code": "connected",
    }
    assert event_view(event({}, "a_newer_kind"), lower_case=False).type == "info"
