"""At most one container of a user: what the daemon does, and leaves, while Nomad moves things by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest
from structlog.testing import capture_logs

from core.domain.endpoints import fencing_s
from core.domain.facts import AllocationFact, ClientStatus, JobFact, TaskEvent, WahaStatus
from core.domain.policy import Policy
from core.errors import Rejected
from tests.unit.daemon.system import C1, U1, Daemon, World, scenario

# Whatever makes Nomad evaluate the job, or restart its task.
WRITES = ("nomad.write_variables", "nomad.register", "nomad.stop", "nomad.purge", "nomad.stop_allocation")


async def at_qr(w: World, daemon: Daemon) -> AllocationFact:
    """A chip at its QR; its allocation."""
    w.store.add_chip(U1, C1)
    for _ in range(40):
        await daemon.one_pass()
        if w.phase() == ("qr", None):
            w.faults.calls.clear()
            return w.nomad.allocs[w.job()][-1]
        await asyncio.sleep(0.2)
    raise AssertionError(w.phase())


def writes(w: World) -> Sequence[str]:
    return [call for call in w.faults.calls if call in WRITES]


def edited_by_hand(w: World) -> None:
    """Something that the daemon wants to put right: the register that must not come."""
    w.nomad.index += 1
    w.nomad.held[w.job()] = JobFact(w.nomad.index, stopped=False, status="running")


async def passes(daemon: Daemon, seconds: float, step_s: float = 5.0) -> None:
    for _ in range(round(seconds / step_s)):
        await daemon.one_pass()
        await asyncio.sleep(step_s)


@pytest.mark.parametrize("drifted", [False, True])
def test_node_loss_freezes_the_user_until_its_container_must_be_dead(drifted: bool) -> None:
    async def main(w: World) -> None:
        daemon = Daemon(w)
        old = await at_qr(w, daemon)
        w.nomad.edit(old.id, client=ClientStatus.LOST, desired="stop")
        if drifted:
            edited_by_hand(w)
        await passes(daemon, fencing_s(Policy()) - 5)
        assert writes(w) == []
        assert w.container() == ("moving", "possibly_alive")
        assert w.store.statuses[U1].endpoint is None
        await asyncio.sleep(6)
        await daemon.one_pass()
        assert writes(w) == (["nomad.register"] if drifted else [])

    scenario(main)()


@scenario
async def test_a_replacement_that_runs_becomes_the_placement_although_the_old_one_is_only_lost(
    w: World,
) -> None:
    daemon = Daemon(w)
    old = await at_qr(w, daemon)
    w.nomad.edit(old.id, client=ClientStatus.LOST, desired="stop")
    await daemon.one_pass()
    new = msgspec.structs.replace(
        old, id="0" * 35 + "9", node_id="n2", port=3999, create_index=old.create_index + 50
    )
    w.nomad.allocs[w.job()].append(new)
    edited_by_hand(w)
    await passes(daemon, 60)
    assert w.store.statuses[U1].endpoint is not None
    placement = w.store.containers[U1].current
    assert placement is not None
    assert placement.allocation_id == new.id
    assert writes(w) == []  # the edit waits: an evaluation could still start a third


@scenario
async def test_a_frozen_agent_that_leaves_its_allocation_unknown_is_waited_for(w: World) -> None:
    daemon = Daemon(w)
    old = await at_qr(w, daemon)
    w.nomad.edit(old.id, client=ClientStatus.UNKNOWN)
    edited_by_hand(w)
    await passes(daemon, 3600, step_s=60)
    assert writes(w) == []
    assert w.container() == ("moving", "possibly_alive")
    w.nomad.edit(old.id, client=ClientStatus.RUNNING)
    await daemon.one_pass()
    assert writes(w) == ["nomad.register"]


@scenario
async def test_a_drain_is_left_to_nomad(w: World) -> None:
    daemon = Daemon(w)
    old = await at_qr(w, daemon)
    w.nomad.edit(old.id, desired="stop")
    new = msgspec.structs.replace(
        old, id="0" * 35 + "8", client=ClientStatus.PENDING, port=3998, create_index=old.create_index + 50
    )
    w.nomad.allocs[w.job()].append(new)
    await passes(daemon, 20)
    assert w.store.statuses[U1].endpoint is None
    assert w.container()[0] == "booting"
    w.nomad.edit(old.id, client=ClientStatus.COMPLETE)
    w.nomad.edit(new.id, client=ClientStatus.RUNNING)
    await passes(daemon, 20)
    endpoint = w.store.statuses[U1].endpoint
    assert endpoint is not None
    assert endpoint.port == 3998
    assert writes(w) == []


CRASHES = [
    ("task_failed", [("Started", ""), ("Terminated", "Exit Code: 1"), ("Not Restarting", "Exceeded 3")]),
    ("image_pull", [("Driver Failure", "Failed to pull `x/y:1`: not found"), ("Not Restarting", "Error")]),
    (
        "port_in_use",
        [
            (
                "Driver Failure",
                "image x: driver failed: Bind for 10.0.0.1:3100 failed: port is already allocated",
            ),
            ("Restarting", "Task restarting in 10 s"),
        ],
    ),
    ("port_in_use", [("Started", ""), ("Terminated", "Exit Code: 98"), ("Restarting", "again")]),
    ("port_in_use", [("Driver Failure", "listen tcp4 0.0.0.0:3100: bind: address already in use")]),
]


@pytest.mark.parametrize(("reason", "events"), CRASHES)
def test_what_ends_by_itself_is_told_and_left_to_nomad(reason: str, events: list[tuple[str, str]]) -> None:
    async def main(w: World) -> None:
        daemon = Daemon(w)
        old = await at_qr(w, daemon)
        told = tuple(TaskEvent(kind, text, w.clock.now()) for kind, text in events)
        w.nomad.edit(old.id, client=ClientStatus.FAILED, events=told)
        await passes(daemon, 300)
        assert w.container() == ("failing", reason)
        assert w.phase() == ("queued", reason)
        assert writes(w) == []
        lines = [event.description for event in w.store.chips[C1].events if event.code == reason]
        assert lines
        assert ('reserved_ports = "3100"' in lines[0]) == (reason == "port_in_use")
        edited_by_hand(w)  # and a failed allocation freezes nothing
        await daemon.one_pass()
        assert writes(w) == ["nomad.register"]

    scenario(main)()


@scenario
async def test_a_job_edited_by_hand_is_put_right_once(w: World) -> None:
    daemon = Daemon(w)
    await at_qr(w, daemon)
    edited_by_hand(w)
    index = w.nomad.index
    await passes(daemon, 60)
    assert writes(w) == ["nomad.register"]
    assert w.faults.args["nomad.register"][-1] == (index,)


@scenario
async def test_a_job_stopped_by_hand_is_registered_again_when_its_container_is_dead(w: World) -> None:
    daemon = Daemon(w)
    await at_qr(w, daemon)
    w.nomad.stop_s = 40.0
    await w.nomad.stop(w.job())
    w.faults.calls.clear()
    await passes(daemon, 35)
    assert writes(w) == []
    assert w.container() == ("moving", "possibly_alive")
    await asyncio.sleep(6)
    await daemon.one_pass()
    assert writes(w) == ["nomad.write_variables", "nomad.register"]


@scenario
async def test_a_job_purged_by_hand_leaves_a_container_that_nobody_lists(w: World) -> None:
    daemon = Daemon(w)
    await at_qr(w, daemon)
    w.nomad.held.pop(w.job())
    w.nomad.allocs[w.job()].clear()
    await passes(daemon, fencing_s(Policy()) - 5)
    assert writes(w) == []
    assert w.container() == ("moving", "allocation_vanished")
    assert w.phase() == ("queued", "allocation_vanished")
    await asyncio.sleep(6)
    await daemon.one_pass()
    assert writes(w) == ["nomad.write_variables", "nomad.register"]
    await asyncio.sleep(1)
    await passes(daemon, 10, step_s=1)
    assert w.container() == ("ready", None)


@scenario
async def test_a_purge_by_hand_during_a_removal_is_waited_out_too(w: World) -> None:
    from core.domain.desired import Wanted

    daemon = Daemon(w)
    await at_qr(w, daemon)
    w.nomad.held.pop(w.job())
    w.nomad.allocs[w.job()].clear()
    w.store.wish(C1, Wanted.DELETED)
    await passes(daemon, fencing_s(Policy()) - 5)
    assert w.container() == ("stopping", "allocation_vanished")
    assert w.faults.count("nomad.delete_variables") == 0
    await asyncio.sleep(6)
    for _ in range(8):
        await daemon.one_pass()
    assert U1 not in w.store.containers
    assert not w.nomad.variables


@scenario
async def test_a_container_removed_behind_nomad_gets_its_sessions_back(w: World) -> None:
    daemon = Daemon(w)
    await at_qr(w, daemon)
    session = w.waha.sessions[U1][f"chip_{C1}"]
    session.status, session.me = WahaStatus.WORKING, "5511999999999@c.us"
    await daemon.one_pass()
    session.status = WahaStatus.STOPPED  # Nomad's client started it again in place
    await daemon.one_pass()
    await asyncio.sleep(1)
    await daemon.one_pass()
    assert w.phase() == ("connected", None)
    assert writes(w) == []


# --- a key that is refused ---------------------------------------------------------------------------------


def refused(w: World) -> None:
    w.faults.before["waha.sessions"] = Rejected("waha", "401", code="waha_key_rejected")


RENEWAL = ["nomad.write_variables", "nomad.register", "nomad.stop_allocation"]


@scenario
async def test_a_refused_key_is_renewed_once_and_then_an_operator_is_called(w: World) -> None:
    daemon = Daemon(w)
    old = await at_qr(w, daemon)
    refused(w)
    await passes(daemon, 8, step_s=4)
    assert writes(w) == []
    assert w.container() == ("ready", "waha_key_rejected")
    with capture_logs() as early:
        await passes(daemon, 8, step_s=4)
    assert writes(w) == RENEWAL
    assert w.faults.args["nomad.stop_allocation"][-1] == (old.id,)
    assert [line for line in early if line["event"] == "waha_key_rejected"] == []
    with capture_logs() as logs:
        await passes(daemon, 600)
    assert writes(w) == RENEWAL
    assert len([a for a in w.nomad.allocs[w.job()] if a.client is ClientStatus.RUNNING]) == 1
    assert {line["log_level"] for line in logs if line["event"] == "waha_key_rejected"} == {"error"}
    assert w.phase() == ("queued", "waha_key_rejected")
    assert f"chip_{C1}" in w.waha.sessions[U1]  # a refusal is never a proof that something is gone

    w.faults.up("waha")
    await passes(daemon, 10)
    assert w.store.containers[U1].observed.key_renewed_for is None
    assert w.phase()[0] in ("qr", "connected")  # type: ignore[index]


@scenario
async def test_a_renewal_that_was_cut_short_is_taken_up_for_the_same_allocation_alone(w: World) -> None:
    daemon = Daemon(w)
    await at_qr(w, daemon)
    refused(w)
    w.faults.before["nomad.stop_allocation"] = Rejected("nomad", "no")
    await passes(daemon, 20)
    assert w.store.containers[U1].observed.key_renewed_for is not None  # remembered before it was sent
    assert "nomad.stop_allocation" in writes(w)
    w.faults.up("nomad")
    w.faults.calls.clear()
    await passes(Daemon(w, owner="d2"), 300)
    assert writes(w) == RENEWAL


@scenario
async def test_a_paused_user_s_sessions_stop_and_come_back(w: World) -> None:
    daemon = Daemon(w)
    await at_qr(w, daemon)
    session = w.waha.sessions[U1][f"chip_{C1}"]
    session.status, session.me = WahaStatus.WORKING, "5511999999999@c.us"
    await daemon.one_pass()
    assert w.store.pause(U1)
    await passes(daemon, 20)
    chip = w.store.chip(C1)
    assert chip is not None
    assert (w.phase(), chip.status) == (("paused", "paused"), "MAINTENANCE")
    assert session.status is WahaStatus.STOPPED
    assert session.me is not None
    assert writes(w) == []
    assert (await daemon.one_pass()).again_in_s is None
    assert w.store.pause(U1, paused=False)
    await passes(daemon, 10, step_s=1)
    assert w.phase() == ("connected", None)
