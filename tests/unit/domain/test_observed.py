"""What a pass moves in the observed columns: rules over any column values, without a store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from core.domain.actions import ChipStatus, ContainerStatus
from core.domain.desired import Tries
from core.domain.events import PHASE_TEXT, Standing, status_event
from core.domain.facts import Endpoint
from core.domain.health import health_score
from core.domain.observed import ChipColumns, ContainerColumns, merge_chip, merge_container
from core.domain.states import REASON_TEXT, ChipPhase, ChipStatusWord, Reason
from tests.memory_store.database import new_chip_columns

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
phases = st.sampled_from(list(ChipPhase)).map(str)
words = st.sampled_from(list(ChipStatusWord)).map(str)
reasons = st.none() | st.sampled_from(list(Reason)).map(str)
times = st.integers(0, 5 * 30 * 86_400).map(lambda seconds: NOW - timedelta(seconds=seconds))
counts = st.integers(0, 20)
tries = st.builds(Tries, generation=counts, failures=counts, qr_rounds=counts, last_at=st.none() | times)
names = st.none() | st.sampled_from(["+5511999999999", "+5521888888888"])

columns = st.builds(
    ChipColumns,
    phase=phases,
    reason=reasons,
    status=words,
    since=times,
    waha_status=st.none() | st.sampled_from(["WORKING", "STOPPED"]),
    phone_number=names,
    push_name=names,
    connected_at=st.none() | times,
    last_activity_at=st.none() | times.map(lambda t: t.replace(second=0, microsecond=0)),
    unlinked_generation=st.none() | counts,
    tries=tries,
    health_score=st.integers(0, 20).map(lambda n: n * 5),
    observed_generation=counts,
)
seen = st.builds(
    ChipStatus,
    phase=phases,
    status=words,
    reason=reasons,
    waha_status=st.none() | st.sampled_from(["WORKING", "STOPPED"]),
    phone_number=names,
    push_name=names,
    connected_now=st.booleans(),
    unlinked_generation=st.none() | counts,
    activity_at=st.none() | times,
    tries=tries,
).map(
    # decide says so of a connected chip alone
    lambda look: msgspec.structs.replace(look, connected_now=look.connected_now and look.phase == "connected")
)


@given(columns, seen, counts, counts, counts)
def test_a_second_look_at_the_same_thing_moves_nothing_but_a_connection(
    before: ChipColumns, look: ChipStatus, loaded: int, stored: int, drops: int
) -> None:
    def merge(columns: ChipColumns) -> ChipColumns:
        return merge_chip(
            columns, look, loaded_generation=loaded, stored_generation=stored, drops=drops, now=NOW
        ).after

    once = merge(before)
    assert merge(once) == once


@given(columns, seen, counts, counts, counts)
def test_columns_that_remember(
    before: ChipColumns, look: ChipStatus, loaded: int, stored: int, drops: int
) -> None:
    move = merge_chip(before, look, loaded_generation=loaded, stored_generation=stored, drops=drops, now=NOW)
    after = move.after
    assert after.observed_generation >= before.observed_generation
    if before.connected_at is not None:
        assert after.connected_at is not None  # "ever paired" is never forgotten
    if before.last_activity_at is not None:
        assert after.last_activity_at is not None
        assert after.last_activity_at >= before.last_activity_at
    if after.since != before.since:
        assert (after.phase, after.reason) != (before.phase, before.reason)
    if look.connected_now:
        assert after.unlinked_generation is None
        assert after.connected_at is not None
    if stored > loaded:
        assert after.standing == before.standing
        assert move.event is None
        assert after.observed_generation == before.observed_generation
    else:
        assert after.standing == Standing(look.phase, look.reason, look.status)
        assert after.tries == look.tries
    assert after.health_score % 5 == 0
    assert 0 <= after.health_score <= 100


containers = st.builds(
    ContainerColumns,
    phase=st.sampled_from(["ready", "absent"]),
    reason=reasons,
    since=times,
    allocation_id=names,
    node_name=names,
    address=names,
    port=st.none() | counts,
    endpoint=st.none() | st.builds(Endpoint, st.just("h"), counts, st.just("a")),
    empty_since=st.none() | times,
    observed_generation=counts,
    observed_at=st.none() | times,
    looked_at=st.none() | times,
    at_rest=st.booleans(),
)
container_looks = st.builds(
    ContainerStatus,
    phase=st.sampled_from(["ready", "absent"]),
    reason=reasons,
    allocation_id=names,
    node_name=names,
    address=names,
    port=st.none() | counts,
    endpoint=st.none() | st.builds(Endpoint, st.just("h"), counts, st.just("a")),
    empty_since=st.none() | times,
    blind=st.booleans(),
    at_rest=st.booleans(),
)


@given(containers, container_looks, counts)
def test_a_container_seen_twice_is_written_once(
    before: ContainerColumns, look: ContainerStatus, generation: int
) -> None:
    once = merge_container(before, look, generation, NOW)
    assert once.looked_at is not None
    soon, late = (once.looked_at + timedelta(seconds=s) for s in (29, 31))
    assert merge_container(once, look, generation, soon) is once
    later = merge_container(once, look, generation, late)
    seen_at = once.observed_at if look.blind else late
    assert later == msgspec.structs.replace(once, looked_at=late, observed_at=seen_at)
    assert once.endpoint == look.endpoint
    if look.blind:
        kept = (once.allocation_id, once.node_name, once.address, once.port)
        assert kept == (before.allocation_id, before.node_name, before.address, before.port)


@given(phases, reasons, words, phases, reasons, words)
def test_every_change_of_status_has_a_sentence(
    phase: str, reason: str | None, word: str, phase_2: str, reason_2: str | None, word_2: str
) -> None:
    event = status_event(Standing(phase, reason, word), Standing(phase_2, reason_2, word_2), 3)
    if word != word_2:
        assert event is not None
        assert (event.extra_data["from"], event.extra_data["to"]) == (word, word_2)
        assert event.description
        assert event.code == (reason_2 or phase_2)
    if (phase, reason, word) == (phase_2, reason_2, word_2):
        assert event is None


def test_the_tables_are_whole() -> None:
    assert set(PHASE_TEXT) == set(ChipPhase)
    assert all(len(code) <= 40 for code in (*PHASE_TEXT, *REASON_TEXT))  # the column's length


def score(**changed: object) -> int:
    facts: dict[str, object] = {
        "paired": True,
        "connected": True,
        "drops": 0,
        "failures": 0,
        "connected_at": NOW - timedelta(days=5),
        "last_activity_at": NOW,
        "now": NOW,
    }
    return health_score(**(facts | changed))  # type: ignore[arg-type]


def test_health_by_example() -> None:
    assert score() == 100
    assert score(paired=False) == 0
    assert score(connected=False) == 50
    assert score(drops=2) == 90
    assert score(drops=100) == 70
    assert score(failures=1) == 90
    assert score(connected=False, failures=9, drops=9) == 0
    assert score(last_activity_at=NOW - timedelta(hours=25)) == 90
    assert score(last_activity_at=NOW - timedelta(days=300), connected_at=NOW - timedelta(days=300)) == 60
    assert score(last_activity_at=None) == 100  # this engine tells none
    assert score(last_activity_at=NOW - timedelta(days=3), connected_at=NOW) == 100
    assert score(connected=False, last_activity_at=None, connected_at=NOW - timedelta(hours=36)) == 35
    assert score(last_activity_at=NOW + timedelta(hours=1)) == 100  # a clock ahead of ours


def test_a_banned_chip_is_worth_nothing_and_one_in_quarantine_half() -> None:
    before = msgspec.structs.replace(new_chip_columns(NOW), connected_at=NOW, phase="connected")
    for phase, expected in ((ChipPhase.BANNED, 0), (ChipPhase.QUARANTINED, 50)):
        seen = ChipStatus(phase=phase, status="ERROR", reason=str(phase))
        move = merge_chip(
            before, seen, loaded_generation=1, stored_generation=1, drops=0, now=NOW + timedelta(minutes=1)
        )
        assert move.after.health_score == expected
        assert move.event is not None
        assert move.event.code == phase


def test_a_pause_of_the_breaker_tells_its_end() -> None:
    ends = NOW + timedelta(minutes=15)
    seen = ChipStatus(phase="failed", status="DISCONNECTED", reason="breaker_open", until=ends)
    before = msgspec.structs.replace(new_chip_columns(NOW), connected_at=NOW, phase="reconnecting")
    move = merge_chip(before, seen, loaded_generation=1, stored_generation=1, drops=0, now=NOW)
    assert move.event is not None
    assert move.event.extra_data["until"] == ends.isoformat()


def _queued() -> ChipColumns:
    return ChipColumns(
        "connected", None, "CONNECTED", NOW, "WORKING", None, None, NOW, None, None, Tries(), 100, 1
    )


def _seen(before: ChipColumns, phase: str, now: datetime, starts_in_s: float | None = None) -> ChipColumns:
    look = ChipStatus(phase, "CONNECTING", reason="paced" if starts_in_s else None, starts_in_s=starts_in_s)
    return merge_chip(before, look, loaded_generation=1, stored_generation=1, drops=0, now=now).after


def test_how_long_it_waits_counts_on_through_every_phase_on_the_way() -> None:
    columns, lost_at = _queued(), NOW + timedelta(seconds=5)
    for step, phase in enumerate(("queued", "creating", "starting", "retrying", "reconnecting", "queued")):
        columns = _seen(columns, phase, lost_at + timedelta(seconds=100 * step))
        assert columns.waiting_since == lost_at
    for rests in ("connected", "parked", "disconnected", "failed", "paused", "qr"):
        assert _seen(columns, rests, lost_at + timedelta(hours=1)).waiting_since is None


def test_an_estimate_is_written_anew_only_when_it_moved_notably() -> None:
    first = _seen(_queued(), "queued", NOW, 100.0)
    assert first.starts_at == NOW + timedelta(seconds=100)
    later = NOW + timedelta(seconds=50)
    for in_s in (42.0, 50.0, 59.0):  # within a fifth of what is left
        same = _seen(first, "queued", later, in_s)
        assert (same.starts_at, same.rendered()) == (first.starts_at, first.rendered())
    for in_s in (35.0, 70.0):
        assert _seen(first, "queued", later, in_s).starts_at == later + timedelta(seconds=in_s)
    close = NOW + timedelta(seconds=98)
    assert _seen(first, "queued", close, 6.0).starts_at == first.starts_at  # within five seconds
    assert _seen(first, "queued", close, 9.0).starts_at == close + timedelta(seconds=9)
    assert _seen(first, "starting", close).starts_at is None
