"""Section 4 of the contract, the table of statuses: the page draws its buttons from these words."""

from __future__ import annotations

import pytest

from core.domain.actions import ChipStatus
from core.domain.states import ChipPhase, ChipStatusWord, status_word
from tests.integration.api.conftest import Running
from tests.integration.api.fleet import WORKING

P = ChipPhase
NEVER_PAIRED = (P.QUEUED, P.CREATING, P.STARTING, P.QR, P.PASSKEY, P.RETRYING, P.FAILED, P.PARKED)
COMING_BACK = (P.QUEUED, P.CREATING, P.STARTING, P.RECONNECTING, P.RETRYING)
# A pass writes the phase it decided on; the word follows from it and from whether the chip was ever paired.
TABLE: list[tuple[str, bool, ChipPhase, str]] = [
    *(("never paired", False, phase, "WAITING_QR") for phase in NEVER_PAIRED),
    *(("paired and on its way", True, phase, "CONNECTING") for phase in COMING_BACK),
    ("WORKING", True, P.CONNECTED, "CONNECTED"),
    ("paired and given up", True, P.FAILED, "DISCONNECTED"),
    ("unlinked", True, P.UNLINKED, "DISCONNECTED"),
    ("ban seen", True, P.BANNED, "BANNED"),
    ("paused by an operator", True, P.PAUSED, "MAINTENANCE"),
    ("paused by an operator", False, P.PAUSED, "MAINTENANCE"),
    ("quarantine", True, P.QUARANTINED, "ERROR"),
]
CONECTAR = {"WAITING_QR", "DISCONNECTED"}
WITHOUT_CONECTAR = {"CONNECTING", "CONNECTED", "BANNED", "MAINTENANCE", "ERROR"}


def test_every_word_of_the_table_and_no_other() -> None:
    assert {row[3] for row in TABLE} == {word.value for word in ChipStatusWord}
    assert {word.value for word in ChipStatusWord} == CONECTAR | WITHOUT_CONECTAR


@pytest.mark.parametrize(
    ("paired", "phase", "word"), [row[1:] for row in TABLE], ids=[f"{row[0]}, {row[2]}" for row in TABLE]
)
async def test_each_situation_has_its_word(
    running: Running, paired: bool, phase: ChipPhase, word: str
) -> None:
    person = await running.person()
    chip = await person.chip()
    if paired:
        await running.daemon.saw(person.id, chips={chip["id"]: WORKING})
    needs_pairing = not paired or phase is P.UNLINKED
    status = ChipStatus(phase=phase, status=status_word(phase, needs_pairing=needs_pairing))
    await running.daemon.saw(person.id, chips={chip["id"]: status})
    [listed] = (await person.get("/chips")).json()
    one = (await person.get(f"/chips/{chip['id']}")).json()
    assert (listed["status"], one["status"]) == (word, word)
    # A browser compares lower case.
    [shown] = (await person.get("/chips", headers={"Sec-Fetch-Mode": "cors"})).json()
    assert shown["status"] == word.lower()


@pytest.mark.parametrize("phase", [P.CONNECTED, P.QR, P.FAILED])
async def test_wanted_disconnected_counts_at_once_whatever_was_seen(
    running: Running, phase: ChipPhase
) -> None:
    person = await running.person()
    chip = await person.chip()
    await running.daemon.saw(person.id, chips={chip["id"]: WORKING})
    seen = ChipStatus(phase=phase, status=status_word(phase, needs_pairing=False))
    await running.daemon.saw(person.id, chips={chip["id"]: seen})
    assert (await person.post(f"/chips/{chip['id']}/disconnect")).json()["status"] == "DISCONNECTED"
    [listed] = (await person.get("/chips")).json()
    assert listed["status"] == "DISCONNECTED"
