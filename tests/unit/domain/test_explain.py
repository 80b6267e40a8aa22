"""Order, evidence, budgets and times of an explanation, and a text for everything that it can name."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from core.domain.cause_row import Proof, Situation
from core.domain.causes import CAUSES, cause_text
from core.domain.desired import Tries
from core.domain.evidence import CheckSeen, Evidence
from core.domain.explain import explain
from core.domain.facts import WahaStatus
from core.domain.next_step import next_step_of
from core.domain.policy import Policy
from core.domain.root_causes import codes_of
from core.domain.states import REASON_TEXT, ChipPhase, ContainerPhase, Reason
from core.domain.story import ContainerStory, Story, Waits
from tests.passes import POLICY
from tests.unit.domain.test_views import CHIP_ID, NOW, USER_ID, chip
from tests.unit.domain.ways import CHIP, USER, Way
from tests.world_rows import START

# Written by parts of the system that bring the reason, with its sentence, themselves.
LATER = frozenset(
    {"banned", "quarantined", "rollout", "restarting", "deaf", "breaker_open", "paced", "outage"}
)
CODES = [str(code) for code in CAUSES]


def story(*, container: str | None = "ready", evidence: Evidence | None = None, **columns: Any) -> Story:
    of_container = columns.pop("container_reason", None)
    given = chip(**columns)
    found = None
    if container is not None:
        found = ContainerStory(container, of_container, NOW, NOW, answers=container == "ready")
    return Story(given, Tries(), 3, found, evidence)


def first(told: Story) -> str:
    return codes_of(told, NOW)[0]


def test_every_reason_and_situation_has_a_row_and_nothing_else_has() -> None:
    named = {str(code) for code in (*Reason, *Situation)} | LATER
    assert set(CODES) == named


@pytest.mark.parametrize("code", CODES)
def test_every_cause_says_what_is_wrong_what_comes_and_what_to_do(code: str) -> None:
    row = CAUSES[code]
    for text in (cause_text(code), row.loop, row.owner):
        assert text
        assert text[0].isupper()
        assert text.rstrip()[-1] in ".;"
        assert "  " not in text
    if code not in LATER:  # a sentence stands in one place
        assert (row.text == "") is (code in [str(reason) for reason in REASON_TEXT])
    told = explain(story(phase="queued", reason=code, waha_status=None), NOW, POLICY)
    cause = next(cause for cause in told.causes if cause.code == code)
    assert cause.operator.person
    assert not any("{" in command for command in cause.operator.commands)


@pytest.mark.parametrize("phase", list(ChipPhase))
@pytest.mark.parametrize("container", [None, *ContainerPhase])
@pytest.mark.parametrize("wanted", ["connected", "disconnected"])
def test_whatever_the_phases_somebody_is_told_something(
    phase: ChipPhase, container: ContainerPhase | None, wanted: str
) -> None:
    told = explain(story(container=container, phase=phase, wanted=wanted, waha_status=None), NOW, POLICY)
    assert told.causes
    assert told.person
    assert told.next_step.text
    msgspec.json.encode(told)


def test_words_of_a_newer_daemon_are_left_out_and_break_nothing() -> None:
    odd = story(container="hovering", phase="levitating", reason="gravity", container_reason="gravity")
    assert codes_of(odd, NOW) == ("session_starting",)
    hovering = story(container="hovering", phase="queued", container_reason="gravity", waha_status=None)
    assert explain(hovering, NOW, POLICY).causes[0].code == "container_starting"


def test_the_root_comes_first_and_the_rest_follows() -> None:
    told = story(
        container="booting",
        phase="queued",
        reason="paced",
        container_reason="waha_not_ready",
        waha_status=None,
    )
    assert codes_of(told, NOW) == ("waha_not_ready", "paced")
    away = msgspec.structs.replace(told, evidence=Evidence(away={"nomad": "dependency_nomad"}))
    assert codes_of(away, NOW) == ("dependency_nomad", "waha_not_ready", "paced")


@pytest.mark.parametrize(
    ("phase", "reason", "expected"),
    [
        ("parked", "qr_spent", "qr_spent"),
        ("unlinked", "unlinked", "unlinked"),
        ("failed", "waha_rejected", "waha_rejected"),
        ("paused", "paused", "paused"),
        ("banned", "banned", "banned"),
        ("qr", None, "waits_for_scan"),
    ],
)
def test_a_chip_that_waits_for_somebody_says_so_first(phase: str, reason: str | None, expected: str) -> None:
    told = story(phase=phase, reason=reason, container_reason="storage_not_isolated")
    assert codes_of(told, NOW)[:2] == (expected, "storage_not_isolated")


def test_a_qr_that_nobody_can_fetch_waits_for_its_container() -> None:
    assert first(story(container="booting", phase="qr", container_reason="port_conflict")) == "port_conflict"


def test_a_wish_to_be_disconnected_is_the_cause_whatever_else_goes_on() -> None:
    off = story(
        phase="disconnected", wanted="disconnected", container_reason="no_memory", container="waiting"
    )
    assert codes_of(off, NOW) == ("disconnected",)
    going = story(phase="disconnecting", wanted="disconnected", container_reason="dependency_waha")
    assert codes_of(going, NOW) == ("dependency_waha", "disconnecting")


def test_nobody_looked() -> None:
    fresh = story(phase="starting", waha_status="STARTING")
    assert first(fresh) == "session_starting"
    assert codes_of(fresh, NOW + timedelta(seconds=181))[0] == "not_looked_at"
    assert fresh.container is not None
    at_rest = msgspec.structs.replace(
        story(phase="connected"), container=msgspec.structs.replace(fresh.container, at_rest=True)
    )
    assert codes_of(at_rest, NOW + timedelta(hours=9)) == ("connected",)
    unseen = story(container=None, phase="queued", observed_generation=0, waha_status=None)
    assert first(unseen) == "not_seen"
    assert codes_of(unseen, NOW + timedelta(seconds=181))[0] == "not_looked_at"


# --- evidence -----------------------------------------------------------------------------------------------
def test_a_cause_shows_what_was_seen_of_it_and_when() -> None:
    way = Way()
    way.world.hosts.clear()
    way.run()
    cause = way.explained().causes[0]
    assert cause.code == "no_port"
    [proof] = cause.evidence
    assert (proof.system, proof.about, proof.observed_at) == ("nomad", "placement", way.looked_at)
    assert proof.detail["dimensions"] == {"network: dynamic port selection failed": 1}
    assert f"nomad eval list -job waha_plus_user_{USER}" in cause.operator.commands


def test_wahas_trail_and_the_way_out_stand_beside_a_session_that_fails() -> None:
    way = Way().connect()
    way.session.status = WahaStatus.FAILED
    way.world.stuck.add(USER)
    way.run(2)
    cause = way.explained().causes[0]
    shown = {proof.about: proof.detail for proof in cause.evidence}
    assert [word["status"] for word in shown["session"]["trail"]][-3:] == ["WORKING", "FAILED", "STARTING"]
    assert shown["session"]["paired"] is True
    assert shown["egress"] == {"way": "direct"}


def test_what_cannot_be_read_now_has_no_time() -> None:
    evidence = Evidence(
        away={"consul": "dependency_consul"}, checks=(CheckSeen("a", "10.0.0.1", 3100, passing=True),)
    )
    told = story(
        container="booting",
        phase="queued",
        waha_status=None,
        container_reason="dependency_consul",
        evidence=evidence,
    )
    proofs = {proof.about: proof for proof in explain(told, NOW, POLICY).causes[0].evidence}
    assert proofs[Proof.AWAY].observed_at == NOW
    assert proofs[Proof.CHECKS].observed_at is None


def test_commands_name_the_job_the_allocation_and_the_user() -> None:
    way = Way().run(3)
    way.world.hung.add(USER)
    way.run(2)
    commands = way.explained().causes[0].operator.commands
    assert commands == ("nomad alloc logs -stderr a2", "nomad alloc status a2")
    none = explain(story(container_reason="task_failed", container="failing", phase="queued"), NOW, POLICY)
    assert none.causes[0].operator.commands == ()  # no allocation is known to look at
    paused = explain(story(phase="paused", reason="paused"), NOW, POLICY).causes[0]
    assert paused.operator.commands == ("wahafleet fleet show", f"wahafleet container resume {USER_ID}")
    released = explain(story(phase="quarantined", reason="quarantined"), NOW, POLICY).causes[0]
    assert f"wahafleet chip release {CHIP_ID}" in released.operator.commands


def test_an_operator_reads_what_the_deadlines_say_of_the_phase() -> None:
    told = explain(story(container="placing", phase="queued", container_reason="placement_slow"), NOW, POLICY)
    part = told.causes[0].operator
    assert part.loop == "waits for Nomad's evaluation; registers again when the job changes"
    assert part.person == "nomad job status and nomad eval list of the job"


# --- budgets ------------------------------------------------------------------------------------------------
def budgets(told: Story) -> dict[str, tuple[int, int, int]]:
    return {b.name: (b.spent, b.limit, b.left) for b in explain(told, NOW, POLICY).budgets}


def test_budgets_are_those_of_the_newest_wish() -> None:
    told = msgspec.structs.replace(story(phase="qr"), tries=Tries(2, failures=1, qr_rounds=2))
    assert budgets(told) == {"qr_rounds": (2, 2, 0), "reconnect_tries": (1, 3, 2)}
    older = msgspec.structs.replace(told, tries=Tries(1, failures=3, qr_rounds=2))
    assert budgets(older) == {"qr_rounds": (0, 2, 2), "reconnect_tries": (0, 3, 3)}
    paired = msgspec.structs.replace(story(phase="connected", connected_at=NOW), tries=Tries(2))
    assert budgets(paired) == {"reconnect_tries": (0, 3, 3)}


def test_sessions_are_counted_while_waha_is_heard() -> None:
    way = Way(max_chips=2).run(8)
    assert {b.name: (b.spent, b.left) for b in way.explained().budgets}["sessions"] == (1, 1)


# --- times --------------------------------------------------------------------------------------------------
def when(code: str, told: Story, policy: Policy = POLICY) -> float | None:
    """Seconds from NOW to the next step."""
    at = next_step_of(code, told, NOW, policy).at
    return None if at is None else (at - NOW).total_seconds()


def test_the_next_step_comes_when_the_rules_say() -> None:
    since = NOW - timedelta(seconds=20)
    qr = story(phase="qr", since=since)
    assert when("waits_for_scan", qr) == POLICY.qr_deadline_s - 20
    retrying = msgspec.structs.replace(
        story(phase="retrying", waha_status="FAILED"),
        tries=Tries(2, failures=2, last_at=NOW - timedelta(seconds=1)),
    )
    assert when("session_failed", retrying) == 3
    starting = msgspec.structs.replace(
        story(phase="starting", waha_status="STARTING", since=since),
        tries=Tries(2, failures=1, last_at=NOW - timedelta(seconds=10)),
    )
    assert when("session_starting", starting) == POLICY.start_deadline_s - 10
    waits = Waits(starts_at=NOW + timedelta(seconds=7), breaker_until=NOW + timedelta(seconds=9))
    waiting = msgspec.structs.replace(qr, waits=waits)
    assert (when("paced", waiting), when("breaker_open", waiting)) == (7, 9)
    assert when("no_memory", qr) is None
    assert when("waits_for_scan", story(phase="qr", since=NOW - timedelta(days=1))) == 0


def test_a_retry_is_told_for_the_moment_at_which_it_comes() -> None:
    """The time that is told against the passes themselves."""
    way = Way().connect()

    def fail() -> None:
        way.session.status = WahaStatus.FAILED

    way.before = fail
    way.run(2)
    told = way.explained()
    assert told.causes[0].code == "session_failed"
    assert told.next_step.at is not None
    starts = way.session.starts
    while way.session.starts == starts:
        way.world.tick(0.5)
        way.one_pass()
    assert abs((way.world.now - told.next_step.at).total_seconds()) <= 1


def test_a_lost_host_is_waited_for_as_long_as_told() -> None:
    way = Way(count=1).connect()
    way.world.lose(way.host)
    way.run(2)
    told = way.explained()
    assert told.causes[0].code == "possibly_alive"
    assert told.next_step.at is not None
    while way.explained().causes[0].code == "possibly_alive":
        way.world.tick(1)
        way.one_pass()
    assert abs((way.world.now - told.next_step.at).total_seconds()) <= 2


def test_a_vanished_allocation_is_waited_for_as_long_as_told() -> None:
    way = Way(count=1).connect()
    way.world.purge(USER)
    way.run(1)
    told = way.explained()
    assert told.next_step.at is not None
    while way.explained().causes[0].code == "allocation_vanished":
        way.world.tick(1)
        way.one_pass()
    assert abs((way.world.now - told.next_step.at).total_seconds()) <= 2


def test_a_story_has_the_same_explanation_twice() -> None:
    way = Way().connect()
    assert way.explained() == way.explained()
    assert way.explained().chip_id == CHIP
    assert way.world.now > START
