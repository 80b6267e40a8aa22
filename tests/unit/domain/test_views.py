from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.qr_view import (
    PREPARING,
    UNREACHABLE,
    QrState,
    qr_expires_at,
    qr_set_began_at,
    qr_state,
)
from core.domain.states import ChipPhase, ChipStatusWord, ContainerPhase, Reason, reason_text, status_word
from core.domain.views import (
    StoredChip,
    StoredContainer,
    answers_create,
    chip_view,
    reconnect_is_under_way,
    shown,
)

NOW = datetime(2026, 7, 1, 12, 0, 30, 123456, tzinfo=UTC)
CHIP_ID = "8a4f8f0e-52a5-4a9e-8f63-6f6c8d1f7b20"
USER_ID = "0b5d1c52-6f0e-4f57-9d6a-3f1f0f8f3a11"
READY = StoredContainer(phase="ready", port=3100, node="host-1")
ABSENT = StoredContainer(phase="absent")


def chip(container: StoredContainer = READY, **columns: Any) -> StoredChip:
    stored: dict[str, Any] = {
        "id": CHIP_ID,
        "user_id": USER_ID,
        "alias": "vendas",
        "wanted": "connected",
        "generation": 2,
        "observed_generation": 2,
        "phase": "qr",
        "reason": None,
        "status": "WAITING_QR",
        "waha_status": "SCAN_QR_CODE",
        "since": NOW,
        "started_at": None,
        "phone_number": None,
        "health_score": 0,
        "unlinked": False,
        "annotations": {},
        "created_at": NOW,
        "updated_at": NOW,
        "connected_at": None,
        "last_activity_at": None,
    }
    return StoredChip(**(stored | columns), container=container)


CONNECTED: dict[str, Any] = {
    "phase": "connected",
    "status": "CONNECTED",
    "waha_status": "WORKING",
    "connected_at": NOW,
}
PARKED: dict[str, Any] = {"phase": "parked", "reason": "qr_spent", "waha_status": "STOPPED"}

# wish, seen in this generation?, observed before -> status, phase, reason
TABLE: list[tuple[str, StoredChip, tuple[str, str, str | None]]] = [
    (
        "just created, nothing of the container yet",
        chip(ABSENT, generation=1, observed_generation=0, phase="queued", waha_status=None),
        ("WAITING_QR", "queued", None),
    ),
    (
        "just created, the container waits for a port",
        chip(
            StoredContainer("waiting", "no_port"),
            generation=1,
            observed_generation=0,
            phase="queued",
            waha_status=None,
        ),
        ("WAITING_QR", "queued", "no_port"),
    ),
    (
        "seen queued, the reason stands at the container",
        chip(StoredContainer("waiting", "no_port"), phase="queued", waha_status=None),
        ("WAITING_QR", "queued", "no_port"),
    ),
    (
        "seen queued with a reason of its own",
        chip(StoredContainer("waiting", "no_port"), phase="queued", reason="no_egress", waha_status=None),
        ("WAITING_QR", "queued", "no_egress"),
    ),
    ("a QR is shown", chip(), ("WAITING_QR", "qr", None)),
    ("parked", chip(**PARKED), ("WAITING_QR", "parked", "qr_spent")),
    (
        "parked, Conectar pressed, not seen yet",
        chip(**PARKED, generation=3),
        ("WAITING_QR", "queued", None),
    ),
    ("connected", chip(**CONNECTED), ("CONNECTED", "connected", None)),
    (
        "connected, Desconectar pressed, not seen yet",
        chip(**CONNECTED, wanted="disconnected", generation=3),
        ("DISCONNECTED", "disconnecting", None),
    ),
    (
        "disconnecting, as seen",
        chip(**{**CONNECTED, "phase": "disconnecting", "status": "DISCONNECTED"}, wanted="disconnected"),
        ("DISCONNECTED", "disconnecting", None),
    ),
    (
        "wanted disconnected, whatever a pass wrote",
        chip(**CONNECTED, wanted="disconnected"),
        ("DISCONNECTED", "disconnecting", None),
    ),
    (
        "disconnected, as seen",
        chip(phase="disconnected", status="DISCONNECTED", wanted="disconnected", waha_status="STOPPED"),
        ("DISCONNECTED", "disconnected", None),
    ),
    (
        "disconnected and paired, Conectar pressed, not seen yet",
        chip(phase="disconnected", status="DISCONNECTED", connected_at=NOW, generation=3),
        ("CONNECTING", "queued", None),
    ),
    (
        "disconnected and never paired, Conectar pressed, not seen yet",
        chip(phase="disconnected", status="DISCONNECTED", generation=3),
        ("WAITING_QR", "queued", None),
    ),
    (
        "unlinked on the phone",
        chip(phase="unlinked", status="DISCONNECTED", reason="unlinked", connected_at=NOW, unlinked=True),
        ("DISCONNECTED", "unlinked", "unlinked"),
    ),
    (
        "unlinked, Conectar pressed, not seen yet",
        chip(
            phase="unlinked",
            status="DISCONNECTED",
            reason="unlinked",
            connected_at=NOW,
            unlinked=True,
            generation=3,
        ),
        ("WAITING_QR", "queued", None),
    ),
    (
        "given up, Conectar pressed, not seen yet",
        chip(
            phase="failed", status="DISCONNECTED", reason="reconnect_failed", connected_at=NOW, generation=3
        ),
        ("CONNECTING", "queued", None),
    ),
    (
        "banned stays banned whatever is pressed",
        chip(phase="failed", status="BANNED", connected_at=NOW, generation=3),
        ("BANNED", "failed", None),
    ),
    (
        "banned and wanted disconnected",
        chip(phase="failed", status="BANNED", connected_at=NOW, wanted="disconnected", generation=3),
        ("DISCONNECTED", "disconnecting", None),
    ),
]


@pytest.mark.parametrize(("stored", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_what_is_shown(stored: StoredChip, expected: tuple[str, str, str | None]) -> None:
    state = shown(stored)
    assert (state.status, state.phase, state.reason) == expected


def stored_chips() -> st.SearchStrategy[StoredChip]:
    """Any chip that a daemon could have written, seen in its newest generation or not."""
    phases = [phase for phase in ChipPhase if phase is not ChipPhase.DELETING]

    def build(
        phase: ChipPhase, paired: bool, unlinked: bool, wanted: str, ahead: int, waha: str | None, reason: str
    ) -> StoredChip:
        return chip(
            phase=phase.value,
            status=status_word(phase, needs_pairing=not paired or unlinked).value,
            connected_at=NOW if paired else None,
            unlinked=unlinked,
            wanted=wanted,
            generation=2 + ahead,
            waha_status=waha,
            reason=reason or None,
        )

    words = ["STOPPED", "STARTING", "SCAN_QR_CODE", "WORKING", "FAILED", "PASSKEY_REQUIRED", None]
    return st.builds(
        build,
        st.sampled_from(phases),
        st.booleans(),
        st.booleans(),
        st.sampled_from(["connected", "disconnected"]),
        st.integers(0, 2),
        st.sampled_from(words),
        st.sampled_from(["", *Reason]),
    )


@given(stored_chips())
def test_a_wish_not_seen_yet_never_shows_what_came_of_an_older_one(stored: StoredChip) -> None:
    state = shown(stored)
    if stored.wanted == "disconnected":
        assert state.status == "DISCONNECTED"
    elif not stored.seen and stored.phase in ("paused", "quarantined", "banned"):
        # A press does not end what an operator alone ends.
        assert state.status in ("MAINTENANCE", "ERROR", "BANNED")
    elif not stored.seen:
        assert state.status in ("WAITING_QR", "CONNECTING")
        assert state.reason is None  # the container has none


@given(stored_chips())
def test_a_qr_answer_always_says_something(stored: StoredChip) -> None:
    state = qr_state(stored, NOW)
    assert state.message
    if stored.wanted == "disconnected" or not stored.seen:
        assert state.status is None
        assert not state.ask
    # Only while the page may show one is WAHA asked at all.
    assert state.ask == (
        stored.wanted == "connected"
        and stored.seen
        and stored.waha_status == "SCAN_QR_CODE"
        and stored.phase not in ("parked", "unlinked", "failed", "paused", "quarantined", "banned")
    )
    assert state.status != "SCAN_QR_CODE"


QR_TABLE: list[tuple[StoredChip, QrState]] = [
    (chip(), QrState(None, UNREACHABLE, ask=True)),
    (chip(**CONNECTED), QrState("WORKING", "Chip conectado.")),
    (
        chip(**PARKED),
        QrState(None, "O QR Code expirou. Clique em Conectar para gerar outro."),
    ),
    (chip(**PARKED, generation=3), QrState(None, PREPARING)),
    (
        chip(StoredContainer("waiting", "no_port"), phase="queued", waha_status=None),
        QrState(None, "Sem porta livre em nenhum host; o chip inicia assim que houver capacidade."),
    ),
    (
        chip(phase="queued", reason="dependency_nomad", waha_status=None),
        QrState(None, "O serviço do WhatsApp está iniciando ou indisponível. Tentando novamente..."),
    ),
    (chip(phase="creating", waha_status="STOPPED"), QrState(None, PREPARING)),
    (
        chip(phase="failed", reason="reconnect_failed", waha_status="FAILED", connected_at=NOW),
        QrState(None, "Não foi possível reconectar o chip. Clique em Conectar para tentar novamente."),
    ),
]


@pytest.mark.parametrize(("stored", "expected"), QR_TABLE)
def test_what_the_qr_route_says(stored: StoredChip, expected: QrState) -> None:
    assert qr_state(stored, NOW) == expected


@pytest.mark.parametrize(
    ("left_s", "said"),
    [
        (None, "em instantes"),
        (-20, "em instantes"),
        (4, "em instantes"),
        (31, "em cerca de 40 segundos"),
        (90, "em cerca de 90 segundos"),
        (150, "em cerca de 3 minutos"),
    ],
)
def test_who_stands_in_line_reads_how_long_and_sees_when(left_s: float | None, said: str) -> None:
    starts_at = None if left_s is None else NOW + timedelta(seconds=left_s)
    stored = chip(phase="queued", reason="paced", waha_status="STOPPED", starts_at=starts_at)
    state = qr_state(stored, NOW)
    assert said in state.message
    assert (state.status, state.ask) == (None, False)
    extra = chip_view(stored, proxy_enabled=False, lower_case=False).extra_data
    assert (extra["reason"], extra["starts_at"]) == ("paced", starts_at)


def test_an_old_estimate_is_not_shown_of_what_waits_for_something_else() -> None:
    stored = chip(phase="queued", reason="no_egress", waha_status="STOPPED", starts_at=NOW)
    assert chip_view(stored, proxy_enabled=False, lower_case=False).extra_data["starts_at"] is None


def test_failed_is_said_only_while_a_restart_is_coming() -> None:
    coming = {"starting", "retrying", "reconnecting"}
    for phase in ChipPhase:
        said = qr_state(chip(phase=phase.value, waha_status="FAILED"), NOW).status
        assert said == ("FAILED" if phase in coming else None), phase


@pytest.mark.parametrize("word", ["STARTING", "PASSKEY_REQUIRED", "PASSKEY_CONFIRMATION_REQUIRED"])
def test_words_that_the_page_may_show(word: str) -> None:
    assert qr_state(chip(phase="starting", waha_status=word), NOW).status == word


@given(st.integers(0, 400))
def test_a_qr_lasts_a_minute_and_each_later_one_twenty_seconds(age_s: int) -> None:
    now = NOW + timedelta(seconds=age_s)
    left = (qr_expires_at(NOW, now) - now).total_seconds()
    assert 0 < left <= (60 if age_s < 60 else 20)
    ends = (qr_expires_at(NOW, now) - NOW).total_seconds()
    assert ends >= 60
    assert (ends - 60) % 20 == 0


def test_a_set_of_codes_begins_with_the_later_of_phase_and_start() -> None:
    later = NOW + timedelta(seconds=5)
    assert qr_set_began_at(chip()) == NOW
    assert qr_set_began_at(chip(started_at=later)) == later
    assert qr_set_began_at(chip(since=later, started_at=NOW)) == later


def test_the_port_of_a_container_on_its_way_out_is_not_shown() -> None:
    for phase in ContainerPhase:
        container = StoredContainer(phase.value, port=3100, node="host-1")
        extra = chip_view(chip(container), proxy_enabled=False, lower_case=False).extra_data
        gone = phase in (ContainerPhase.ABSENT, ContainerPhase.STOPPING)
        assert (extra["waha_plus_port"], extra["node"]) == ((None, None) if gone else (3100, "host-1"))
        assert answers_create(chip(container)) is not gone


def test_a_create_is_answered_by_a_reason_too() -> None:
    unplaced = chip(ABSENT, generation=1, observed_generation=0, phase="queued", waha_status=None)
    assert not answers_create(unplaced)
    waiting = StoredContainer("waiting", "dependency_nomad")
    assert answers_create(msgspec.structs.replace(unplaced, container=waiting))


def test_every_key_is_there_and_annotations_never_win() -> None:
    notes = {"heat_up": {"stage": 2}, "waha_plus_port": 1, "reason": "ours"}
    body = chip_view(chip(annotations=notes), proxy_enabled=True, lower_case=True)
    assert body.status == "waiting_qr"
    assert body.session_id == f"chip_{CHIP_ID}"
    assert body.extra_data == {
        "heat_up": {"stage": 2},
        "waha_plus_container": f"waha_plus_user_{USER_ID}",
        "waha_plus_port": 3100,
        "waha_session": f"chip_{CHIP_ID}",
        "waha_status": "SCAN_QR_CODE",
        "proxy_enabled": True,
        "node": "host-1",
        "phase": "qr",
        "reason": None,
        "reason_text": None,
        "starts_at": None,
    }


def test_activity_is_shown_to_the_minute() -> None:
    body = chip_view(chip(last_activity_at=NOW), proxy_enabled=False, lower_case=False)
    assert body.last_activity_at == NOW.replace(second=0, microsecond=0)


def test_a_reason_from_a_newer_daemon_does_not_break_the_list() -> None:
    extra = chip_view(
        chip(phase="queued", reason="solar_flare"), proxy_enabled=False, lower_case=False
    ).extra_data
    assert (extra["reason"], extra["reason_text"]) == ("solar_flare", None)
    assert qr_state(chip(phase="parked", reason="solar_flare"), NOW).message == UNREACHABLE


def test_the_unreachable_text_is_the_one_of_the_reasons() -> None:
    assert reason_text("dependency_waha") == UNREACHABLE


def test_when_a_reconnect_changes_nothing() -> None:
    words = ["STOPPED", "STARTING", "SCAN_QR_CODE", "WORKING", "FAILED", "PASSKEY_REQUIRED", None]
    for wanted, seen, word in product(["connected", "disconnected"], [True, False], words):
        stored = chip(wanted=wanted, observed_generation=2 if seen else 1, waha_status=word)
        expected = wanted == "connected" and seen and word in ("STARTING", "SCAN_QR_CODE", "WORKING")
        assert reconnect_is_under_way(stored) is expected


@pytest.mark.parametrize("phase", ["unlinked", "parked", "failed"])
def test_a_reconnect_counts_while_a_session_that_was_given_up_still_runs(phase: str) -> None:
    assert not reconnect_is_under_way(chip(phase=phase, waha_status="SCAN_QR_CODE"))


def test_status_words_are_those_of_the_api() -> None:
    assert {word.value for word in ChipStatusWord} == {
        "WAITING_QR",
        "CONNECTING",
        "CONNECTED",
        "DISCONNECTED",
        "BANNED",
        "MAINTENANCE",
        "ERROR",
    }
