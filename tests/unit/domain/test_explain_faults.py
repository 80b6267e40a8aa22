"""Faults injected into the pure world: real passes, what they keep, and the first cause that follows.

What other parts write into columns of the chip (line, breaker, quarantine, ban, rollout, restart) is put there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest

from core.domain import actions as act
from core.domain.causes import CAUSES, cause_text
from core.domain.desired import Wanted
from core.domain.egress_errors import EgressError
from core.domain.facts import (
    AllocationFact,
    ClientStatus,
    EvaluationFact,
    Known,
    Observation,
    PlacementFailure,
    TaskEvent,
    WahaStatus,
)
from core.domain.ports import Holding, record
from core.domain.routes import OF_LABEL, OF_PROVIDER, OF_SUB_USER
from core.domain.states import Reason
from daemon.outcome import Verdict
from tests.passes import CHIPS, GUARDED, POLICY, USERS
from tests.unit.domain.ways import CHIP, USER, Way, refusing
from tests.world_rows import START, Allocation

Make = Callable[[], Way]
SECOND = CHIPS[1]
OF_ACCOUNT = sorted(OF_PROVIDER | OF_SUB_USER)


def unplaced(failure: PlacementFailure) -> Way:
    """Nomad has no room: what its evaluation says is the case's."""
    way = Way()
    way.world.hosts.clear()

    def alter(seen: Observation) -> Observation:
        if not isinstance(seen.evaluation, Known):
            return seen
        evaluation = EvaluationFact("e1", "complete", "job-register", 10, failure, "b1")
        return msgspec.structs.replace(seen, evaluation=Known(evaluation, seen.evaluation.at))

    way.alter = alter
    return way.run()


def task(client: ClientStatus, *events: tuple[str, str]) -> Way:
    """The newest allocation's task goes the way that its events tell."""
    way = Way()
    way.world.unready.add(USER)
    told = tuple(TaskEvent(type_, message, START) for type_, message in events)

    def changed(fact: AllocationFact) -> AllocationFact:
        return msgspec.structs.replace(fact, client=client, events=told)

    def alter(seen: Observation) -> Observation:
        assert isinstance(seen.allocations, Known)
        facts = tuple(changed(fact) for fact in seen.allocations.value)
        return msgspec.structs.replace(seen, allocations=Known(facts, seen.allocations.at))

    way.alter = alter
    return way.run()


def unready(*, listed: bool) -> Way:
    way = Way()
    way.world.unready.add(USER)

    def alter(seen: Observation) -> Observation:
        assert isinstance(seen.instances, Known)
        shown = seen.instances.value if listed else ()
        failing = tuple(
            msgspec.structs.replace(one, output="ping: HTTP GET http://10.0.0.1:3100/ping: 503")
            for one in shown
        )
        return msgspec.structs.replace(seen, instances=Known(failing, seen.instances.at))

    way.alter = alter
    return way.run(40)


def blind(system: str, *, connected: bool = False) -> Way:
    way = Way()
    if connected:
        way.connect()
    way.world.blind.add(system)
    return way.run()


def hung() -> Way:
    way = Way().run(3)
    way.world.hung.add(USER)
    return way.run(3)


def port_conflict() -> Way:
    way = Way(count=1)
    world = way.world
    host = next(iter(world.hosts))
    foreign = Allocation("foreign", USERS[1], host, 3103, 0, START, client=ClientStatus.RUNNING)
    world.allocations.append(foreign)
    booked = record(world.ledger, host, 3100, Holding(USERS[1], "foreign"), set())
    assert isinstance(booked, dict)
    world.ledger = booked
    return way.run(3)


def key_refused() -> Way:
    way = Way().run(4)
    way.world.refuse_key(USER)
    return way.run(1)


def not_isolated() -> Way:
    way = Way()
    way.world.shared.add(USER)
    way.add(SECOND)
    return way.run(8)


def storage_away() -> Way:
    way = Way()
    way.world.blind.add("storage")
    way.add(SECOND)
    return way.run(8)


def stuck(passes: int) -> Way:
    way = Way()
    way.world.stuck.add(USER)
    return way.run(passes)


def fails(passes: int) -> Way:
    """A paired session that is FAILED whatever is tried."""
    way = Way().connect()

    def before() -> None:
        way.session.status = WahaStatus.FAILED

    way.before = before
    return way.run(passes)


def never_shows_a_qr() -> Way:
    way = Way()

    def before() -> None:
        for session in way.world.sessions.get(USER, {}).values():
            session.status = WahaStatus.FAILED

    way.before = before
    return way.run(40)


def pairing(status: WahaStatus, *, paired: bool) -> Way:
    way = Way()
    way.connect() if paired else way.run(8)
    way.session.status = status
    way.one_pass()
    return way


def qr_spent() -> Way:
    way = Way().run(8)
    for _ in range(3):
        way.world.expire_qr(USER, CHIP)
        way.run(6)
    return way


def refused(kind: type[Any], verdict: Verdict, code: str) -> Way:
    way = Way()
    way.refuse = refusing(kind, verdict, code)
    return way.run(3)


def plan_limit() -> Way:
    way = Way(max_chips=1)
    way.add(SECOND)
    return way.run(8)


def paused() -> Way:
    way = Way().connect()
    way.world._container(USER, paused=True)
    return way.run(3)


def purged() -> Way:
    way = Way().connect()
    way.world.purge(USER)
    return way.run(1)


def host_lost() -> Way:
    way = Way(count=1).connect()
    way.world.lose(way.host)
    return way.run(2)


def never_stops() -> Way:
    way = Way().connect()
    way.world.intend(USER, CHIP, Wanted.DISCONNECTED)

    def before() -> None:
        way.session.status = WahaStatus.WORKING

    way.before = before
    return way.run(20)


def edited() -> Way:
    way = Way().connect()
    way.world.edit_job(USER)
    return way.run(2)


def stopped_by_hand() -> Way:
    way = Way().connect()
    way.world.stop_job(USER)
    return way.run(1)


def drained() -> Way:
    way = Way().connect()
    way.world.drain(way.host)
    return way.run(2)


def asleep() -> Way:
    way = Way()
    way.world.asleep = True
    return way.run(20)


def not_renderable() -> Way:
    way = Way()
    way.world._container(USER, renderable=False)
    return way.run()


def disconnected() -> Way:
    way = Way().connect()
    way.world.intend(USER, CHIP, Wanted.DISCONNECTED)
    return way.run(3)


def guarded() -> Way:
    way = Way(policy=GUARDED)
    way.world.policy = GUARDED
    return way


def no_provider() -> Way:
    way = guarded()
    way.refuse = refusing(act.AssignLabel, Verdict.REFUSED, "no_upstream")
    return way.run(8)


def unread(error: EgressError) -> Way:
    """Its exit cannot be read."""
    way = guarded()
    way.world.reading_fails = error
    return way.run(8)


def in_trouble(error: EgressError) -> Way:
    """Its provider or its sub-user carries nothing."""
    way = guarded().connect()
    route = way.chip().route
    assert route is not None
    way.world._edit(USER, CHIP, route=msgspec.structs.replace(route, unusable=error))
    way.world.kill_container(USER)
    return way.run(4)


def written(reason: str, phase: str = "queued", *, connected: bool = False) -> Way:
    """Columns as another part of the system writes them."""
    way = Way()
    way.connect() if connected else way.run(2)
    way.columns = {"phase": phase, "reason": reason}
    return way


def rollout() -> Way:
    way = Way().connect()
    way.world.statuses[USER] = msgspec.structs.replace(way.world.statuses[USER], reason="rollout")
    way.columns = {"phase": "connected", "reason": "rollout"}
    return way


def abandoned() -> Way:
    way = Way().run(2)
    way.world.tick(600)
    return way


def unasked() -> Way:
    way = Way().connect()
    way.world._edit(USER, CHIP, bump=True, intent_at=way.world.now)
    way.columns = {"observed_generation": way.chip().generation - 1}
    return way


def pull(text: str) -> tuple[str, str]:
    return "Driver Failure", text


def exhausted(dimension: str) -> Way:
    return unplaced(PlacementFailure(2, 0, 2, {dimension: 2}))


FAULTS: list[tuple[str, Make, str, str]] = [
    # --- placement
    (
        "no port",
        lambda: exhausted("network: dynamic port selection failed"),
        "no_port",
        CHIP,
    ),
    (
        "no reserved port",
        lambda: exhausted("network: reserved port collision"),
        "no_port",
        CHIP,
    ),
    ("no memory", lambda: exhausted("memory"), "no_memory", CHIP),
    ("no cpu", lambda: exhausted("cpu"), "no_cpu", CHIP),
    ("no cores", lambda: exhausted("cores"), "no_cpu", CHIP),
    ("no host", lambda: unplaced(PlacementFailure(0, 0, 0)), "no_host", CHIP),
    (
        "a constraint",
        lambda: unplaced(PlacementFailure(2, 2, 0, constraints={"${driver.docker} = 1": 2})),
        "constraint_unmet",
        CHIP,
    ),
    ("placement slow", asleep, "placement_slow", CHIP),
    ("host lost", host_lost, "possibly_alive", CHIP),
    ("job purged by hand", purged, "allocation_vanished", CHIP),
    ("job refused", lambda: refused(act.RegisterJob, Verdict.REFUSED, "rejected"), "job_rejected", CHIP),
    (
        "secrets refused",
        lambda: refused(act.WriteVariables, Verdict.REFUSED, "forbidden"),
        "job_rejected",
        CHIP,
    ),
    ("job not renderable", not_renderable, "job_not_renderable", CHIP),
    # --- task and image
    (
        "image not pulled",
        lambda: task(ClientStatus.PENDING, pull("Failed to pull `waha:1`: not found")),
        "image_pull",
        CHIP,
    ),
    (
        "image not pulled, gave up",
        lambda: task(ClientStatus.FAILED, pull("image not found")),
        "image_pull",
        CHIP,
    ),
    ("task exits", lambda: task(ClientStatus.FAILED, ("Terminated", "Exit Code: 1")), "task_failed", CHIP),
    (
        "task cannot be set up",
        lambda: task(ClientStatus.PENDING, ("Setup Failure", "template: missing")),
        "task_failed",
        CHIP,
    ),
    (
        "out of memory",
        lambda: task(ClientStatus.FAILED, ("Terminated", 'Exit Code: 137, Exit Message: "OOM Killed"')),
        "out_of_memory",
        CHIP,
    ),
    (
        "port in use, docker",
        lambda: task(ClientStatus.PENDING, pull("driver failed: address already in use")),
        "port_in_use",
        CHIP,
    ),
    (
        "port in use, process",
        lambda: task(ClientStatus.FAILED, ("Terminated", "Exit Code: 98")),
        "port_in_use",
        CHIP,
    ),
    ("port booked for another", port_conflict, "port_conflict", CHIP),
    # --- boot and check
    ("never passes", lambda: unready(listed=True), "waha_not_ready", CHIP),
    ("not in Consul", lambda: unready(listed=False), "instance_missing", CHIP),
    ("WAHA answers nothing", hung, "dependency_waha", CHIP),
    (
        "WAHA breaks off",
        lambda: refused(act.CreateSession, Verdict.FAILED, "timeout"),
        "dependency_waha",
        CHIP,
    ),
    ("host drained", drained, "container_moving", CHIP),
    # --- key and storage
    ("key refused", key_refused, "waha_key_rejected", CHIP),
    ("storage shared", not_isolated, "storage_not_isolated", SECOND),
    ("storage away", storage_away, "dependency_storage", SECOND),
    # --- session and pairing
    ("stuck in STARTING", lambda: stuck(60), "session_slow", CHIP),
    ("no QR ever comes", never_shows_a_qr, "reconnect_failed", CHIP),
    ("FAILED, tries left", lambda: fails(2), "session_failed", CHIP),
    ("FAILED, tries spent", lambda: fails(40), "reconnect_failed", CHIP),
    (
        "configuration refused",
        lambda: refused(act.CreateSession, Verdict.REFUSED, "rejected"),
        "waha_rejected",
        CHIP,
    ),
    ("unlinked on the phone", lambda: pairing(WahaStatus.SCAN_QR_CODE, paired=True), "unlinked", CHIP),
    ("QR not scanned yet", lambda: pairing(WahaStatus.SCAN_QR_CODE, paired=False), "waits_for_scan", CHIP),
    (
        "passkey asked for",
        lambda: pairing(WahaStatus.PASSKEY_REQUIRED, paired=False),
        "waits_for_passkey",
        CHIP,
    ),
    ("QR spent", qr_spent, "qr_spent", CHIP),
    ("deaf", lambda: written("deaf", "reconnecting", connected=True), "deaf", CHIP),
    ("an outage of many", lambda: written("outage", "failed", connected=True), "outage", CHIP),
    ("stop not obeyed", never_stops, "stop_slow", CHIP),
    # --- egress
    ("no egress", lambda: Way(policy=msgspec.structs.replace(POLICY, egress=None)).run(6), "no_egress", CHIP),
    ("no provider", no_provider, "no_upstream", CHIP),
    *((f"reading: {error}", partial(unread, error), error.value, CHIP) for error in sorted(OF_LABEL)),
    *((f"account: {error}", partial(in_trouble, error), error.value, CHIP) for error in OF_ACCOUNT),
    ("traffic of the plan used up", lambda: written("quota"), "quota", CHIP),
    # --- dependencies
    ("Nomad away", lambda: blind("nomad"), "dependency_nomad", CHIP),
    ("Nomad away, chip connected", lambda: blind("nomad", connected=True), "dependency_nomad", CHIP),
    (
        "Nomad breaks off",
        lambda: refused(act.RegisterJob, Verdict.FAILED, "timeout"),
        "dependency_nomad",
        CHIP,
    ),
    ("Consul away", lambda: blind("consul"), "dependency_consul", CHIP),
    ("Consul away, chip connected", lambda: blind("consul", connected=True), "dependency_consul", CHIP),
    ("WAHA away, chip connected", lambda: blind("waha", connected=True), "dependency_waha", CHIP),
    ("Redis away", lambda: written("dependency_redis"), "dependency_redis", CHIP),
    # --- operators and owners
    ("paused", paused, "paused", CHIP),
    ("job edited by hand", edited, "job_by_hand", CHIP),
    ("job stopped by hand", stopped_by_hand, "job_by_hand", CHIP),
    ("quarantined", lambda: written("quarantined", "quarantined"), "quarantined", CHIP),
    ("banned", lambda: written("banned", "banned", connected=True), "banned", CHIP),
    ("rollout", rollout, "rollout", CHIP),
    ("restart asked for", lambda: written("restarting", "reconnecting", connected=True), "restarting", CHIP),
    ("disconnected by its owner", disconnected, "disconnected", CHIP),
    # --- budgets and pace
    ("plan limit", plan_limit, "plan_limit", SECOND),
    ("breaker open", lambda: written("breaker_open", "reconnecting", connected=True), "breaker_open", CHIP),
    ("paced", lambda: written("paced"), "paced", CHIP),
    # --- the loop
    ("nobody looks", abandoned, "not_looked_at", CHIP),
    ("not looked at yet", unasked, "not_seen", CHIP),
    ("nothing wrong", lambda: Way().connect(), "connected", CHIP),
]


def test_there_are_forty_faults_and_more() -> None:
    assert len({name for name, *_ in FAULTS}) == len(FAULTS) >= 40


@pytest.mark.parametrize(
    ("make", "code", "chip"), [fault[1:] for fault in FAULTS], ids=[f[0] for f in FAULTS]
)
def test_the_first_cause_is_the_right_one(make: Make, code: str, chip: str) -> None:
    told = make().explained(chip)
    first = told.causes[0]
    assert first.code == code, [cause.code for cause in told.causes]
    assert first.text == cause_text(code)
    assert told.person == first.person != ""
    assert told.next_step.text == first.next != ""
    assert first.operator.person
    msgspec.json.encode(told)


def test_every_reason_is_the_first_cause_of_some_fault() -> None:
    assert {str(reason) for reason in Reason} <= {code for _, _, code, _ in FAULTS}


def test_what_is_not_injected_is_a_start() -> None:
    assert CAUSES.keys() - {code for _, _, code, _ in FAULTS} == {
        "container_starting",
        "session_starting",
        "disconnecting",
    }
