from __future__ import annotations

from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.accounts import FieldError
from core.domain.pairing import (
    NewestWish,
    clean_phone,
    code_expires_at,
    is_asked_already,
    refuse_pairing,
    waits_for_code,
)
from core.domain.states import ON_ITS_WAY, ChipPhase, status_word
from core.domain.views import StoredChip, StoredContainer
from core.errors import Conflict

# Phases of another wish, or of a session that says something else: the next look tells.
STILL_MOVING = {
    ChipPhase.QR,
    ChipPhase.CONNECTED,
    ChipPhase.DISCONNECTING,
    ChipPhase.DISCONNECTED,
    ChipPhase.DELETING,
}
NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


def chip(**more: Any) -> StoredChip:
    values: dict[str, Any] = {
        "id": "8a4f8f0e-52a5-4a9e-8f63-6f6c8d1f7b20",
        "user_id": "0b5d1c52-6f0e-4f57-9d6a-3f1f0f8f3a11",
        "alias": "vendas",
        "wanted": "connected",
        "generation": 3,
        "observed_generation": 3,
        "phase": "qr",
        "reason": None,
        "status": "WAITING_QR",
        "waha_status": "SCAN_QR_CODE",
        "since": NOW,
        "started_at": NOW,
        "phone_number": None,
        "health_score": 0,
        "unlinked": False,
        "annotations": {},
        "created_at": NOW,
        "updated_at": NOW,
        "connected_at": None,
        "last_activity_at": None,
        "container": StoredContainer("ready"),
    }
    return StoredChip(**values | more)


@given(st.from_regex(r"\A\+[1-9][0-9]{7,14}\Z"), st.data())
def test_a_number_is_its_digits_whatever_stands_between(number: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(number)))
    mark = data.draw(st.sampled_from([" ", "-", "(", ")", "."]))
    assert clean_phone(number[:place] + mark + number[place:]) == number[1:]


@given(st.text(max_size=20))
def test_whatever_is_taken_is_what_waha_takes(text: str) -> None:
    digits = ""
    with suppress(FieldError):
        digits = clean_phone(text)
    assert digits == "" or (digits.isascii() and digits.isdigit() and 8 <= len(digits) <= 15)


def test_only_a_session_that_shows_a_qr_for_this_wish_is_asked() -> None:
    assert waits_for_code(chip())
    assert not waits_for_code(chip(observed_generation=2))
    assert not waits_for_code(chip(phase="starting", waha_status="STARTING"))
    assert not waits_for_code(chip(phase="queued", waha_status=None))


@pytest.mark.parametrize("phase", list(ChipPhase))
def test_every_phase_is_waited_for_asked_or_refused_in_a_sentence(phase: ChipPhase) -> None:
    status = status_word(phase, needs_pairing=True).value
    seen = chip(phase=phase.value, status=status, waha_status="STOPPED", reason=None)
    answered = phase not in ON_ITS_WAY | STILL_MOVING
    with pytest.raises(Conflict, match=r"\.\Z") if answered else nullcontext():
        assert not waits_for_code(seen)  # WAHA's own word says STOPPED


@pytest.mark.parametrize("phase", ["banned", "quarantined", "paused"])
def test_what_only_an_operator_ends_is_refused_before_anything_is_wished(phase: str) -> None:
    status = status_word(ChipPhase(phase), needs_pairing=False).value
    with pytest.raises(Conflict) as refused:
        refuse_pairing(chip(phase=phase, status=status, reason=phase, waha_status="STOPPED"))
    assert refused.value.code == "chip_not_pairable"


def test_a_connected_chip_is_refused_and_one_that_is_not_seen_yet_is_not() -> None:
    with pytest.raises(Conflict, match="já está conectado"):
        refuse_pairing(chip(phase="connected", status="CONNECTED", waha_status="WORKING"))
    refuse_pairing(chip(phase="connected", status="CONNECTED", waha_status="WORKING", wanted="disconnected"))
    refuse_pairing(chip(phase="failed", status="DISCONNECTED", waha_status="FAILED"))


def test_a_press_that_is_on_its_way_is_not_asked_again() -> None:
    press = NewestWish("press", NOW)
    assert is_asked_already(chip(observed_generation=2), press)
    assert is_asked_already(chip(phase="starting", waha_status="STARTING"), press)
    # It shows a QR, or ended: this call buys its own.
    assert not is_asked_already(chip(), press)
    assert not is_asked_already(chip(phase="parked", waha_status="STOPPED"), press)
    # No consent in the newest wish, or it ended with a connection.
    assert not is_asked_already(chip(observed_generation=2), NewestWish("none", NOW))
    later = chip(phase="reconnecting", waha_status="STARTING", connected_at=NOW + timedelta(seconds=1))
    assert not is_asked_already(later, press)
    assert not is_asked_already(chip(wanted="disconnected", observed_generation=2), press)


@given(st.integers(-10_000, 10_000))
def test_a_code_goes_with_its_qr_set_and_is_good_for_a_moment_at_least(began_s: int) -> None:
    expires = code_expires_at(NOW + timedelta(seconds=began_s), NOW)
    assert expires >= NOW + timedelta(seconds=20)
    if began_s > -140:
        assert expires == NOW + timedelta(seconds=began_s + 160)
