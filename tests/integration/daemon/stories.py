"""The stories that the daemon is killed in: how each begins, what starts it, and what must hold at its end."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import httpx
from sqlalchemy import select

from core.domain.actor import COMMAND_LINE
from core.domain.names import session_name
from core.store.containers_admin import restart_container
from core.store.tables import containers
from core.store.webhooks import InboxEvent, record
from tests.integration.daemon.fleet import Fleet, has, until
from tests.integration.daemon.traces import (
    User,
    alive,
    allocations,
    problems_alive,
    problems_gone,
    registers,
    starts,
)

NODE_LOSS_SPEED: Final = 30.0
_STARTED: Final = "effect_done StartSession"


@dataclass(frozen=True)
class Story:
    """
    Attributes:
        prepare: brings a user to where the story begins, with a daemon that works.
        trigger: the wish or the event; after it the daemon has something to do.
        problems: what does not hold yet; empty when the world has converged.
        made: allocations, registers and starts of sessions that the story costs when nobody is killed.
        steps: every step that the daemon announces for the user from the trigger to the end.
        speed: of the Nomad double, whose hosts otherwise need minutes to be given up.
        pairs: the story ends with a QR, so that its starts were taken from the chip's tries.
        ends_container: a process of the container is told to end. It stops its sessions first, says so, and
            goes on answering for a moment: whoever looks right then sees a stopped session, and a start that
            such a process takes is lost with it, or gets no answer. One start there is legal, and so is its
            repetition in the next process, by the ladder's next rung; a second one in either is not.
        killed_at: the steps with a case of their own; the others have theirs in another story.
        within_s: how long the world may take to converge.
    """

    prepare: Callable[[Fleet], Awaitable[User]]
    trigger: Callable[[Fleet, User], Awaitable[User]]
    problems: Callable[[Fleet, User], Awaitable[list[str]]]
    made: tuple[int, int, int]
    steps: tuple[str, ...]
    pairs: bool = False
    speed: float = 1.0
    ends_container: bool = False
    killed_at: tuple[str, ...] = ()
    within_s: float = 30.0

    def instead(self, step: str) -> tuple[str, ...]:
        """The steps that it may come to in the place of `step`, which is one of them."""
        if self.ends_container and step == _STARTED:
            return (step, "effect_done RestartSession")
        return (step,)


@dataclass(frozen=True)
class Mark:
    """What had happened to a user when the story began."""

    allocations: frozenset[str]
    registers: int
    starts: Counter[str]

    @classmethod
    def now(cls, fleet: Fleet, user: User) -> Mark:
        known = frozenset(a.id for a in allocations(fleet, user.id))
        return cls(known, registers(fleet, user.id), starts(fleet, user.namespace))

    async def problems(self, fleet: Fleet, user: User, story: Story, kills: int) -> list[str]:
        """What was done more or less often than the story needs; each kill may cost a try.

        A register that was not booked is found in Nomad by the next daemon, so none is ever repeated.
        """
        found = []
        new, registered, started = story.made
        made = [a.id for a in allocations(fleet, user.id) if a.id not in self.allocations]
        if len(made) != new:
            found.append(f"{len(made)} allocations were made, {new} needed")
        sent = registers(fleet, user.id) - self.registers
        if sent != registered:
            found.append(f"{sent} registers were accepted, {registered} needed")
        versions = [
            j["Version"] for key, j in fleet.nomad.double.state.jobs.items() if key[1].endswith(user.id)
        ]
        if any(versions):
            found.append(f"the job came to version {versions}")
        by_process = starts(fleet, user.namespace) - self.starts
        lost = (
            {process for process in by_process if process in self.starts} if story.ends_container else set()
        )
        begun = by_process.total()
        if sum(n for process, n in by_process.items() if process not in lost) != started or any(
            by_process[process] > 1 for process in lost
        ):
            found.append(f"sessions were started {dict(by_process)} times by process, {started} needed")
        if story.pairs:
            row = await fleet.chip_row(user.chips[0])
            tries = row["tries_qr_rounds"] if row else 0
            if not begun <= tries <= begun + kills:
                found.append(f"{tries} tries are on the books for {begun} starts")
        return found


_PASS = ("claimed", "observed", "status_written", "released")


async def _nobody(fleet: Fleet) -> User:
    return User(await fleet.user(), ())


async def _create(fleet: Fleet, user: User) -> User:
    chip = await fleet.chip(user.id)
    (row,) = await fleet.rows(select(containers.c.namespace).where(containers.c.user_id == user.id))
    return User(user.id, (*user.chips, chip), row["namespace"])


async def _connected(fleet: Fleet) -> User:
    user = await _create(fleet, await _nobody(fleet))
    await until(lambda: fleet.chip_row(user.chips[0]), has(phase="qr"))
    await fleet.scan(user.id, user.chips[0])
    await until(lambda: fleet.chip_row(user.chips[0]), has(phase="connected"))
    return user


async def _disconnected(fleet: Fleet) -> User:
    user = await _connected(fleet)
    await _disconnect(fleet, user)
    await until(lambda: fleet.chip_row(user.chips[0]), has(phase="disconnected"))
    return user


async def _unlinked(fleet: Fleet) -> User:
    user = await _connected(fleet)
    await fleet.unlink(user.id, user.chips[0])
    await until(lambda: fleet.chip_row(user.chips[0]), has(phase="unlinked"))
    return user


async def _delete(fleet: Fleet, user: User) -> User:
    await fleet.delete(user.id, user.chips[0])
    return user


async def _disconnect(fleet: Fleet, user: User) -> User:
    await fleet.disconnect(user.id, user.chips[0])
    return user


async def _reconnect(fleet: Fleet, user: User) -> User:
    await fleet.reconnect(user.id, user.chips[0])
    return user


async def _restart_task(fleet: Fleet, user: User) -> User:
    await fleet.restart_task(alive(fleet, user.id)[0].id)
    return user


async def _cut_off(fleet: Fleet, user: User) -> User:
    await host(fleet, alive(fleet, user.id)[0].node_name, "cut-off")
    return user


async def _fail_session(fleet: Fleet, user: User) -> User:
    """A restart at WAHA's own door fails; its daemon hears of it when it can work again."""
    base_url, api_key = await fleet.waha(user.id)
    name = session_name(user.chips[0])
    async with httpx.AsyncClient(base_url=base_url, headers={"X-Api-Key": api_key}, trust_env=False) as http:
        (await http.post("/sim/webhooks", json={"count": 100, "what": "drop"})).raise_for_status()
        faults = f"/sim/sessions/{name}/faults"
        (await http.post(faults, json={"start_error": True})).raise_for_status()
        await http.post(f"/api/sessions/{name}/restart")
        assert (await http.get(f"/api/sessions/{name}")).json()["status"] == "FAILED"
        (await http.post(faults, json={})).raise_for_status()
    event = InboxEvent(str(uuid.uuid4()), "session.status", name, {"event": {}})
    await record(fleet.engine, user.id, [event])
    return user


async def _wish_restart(fleet: Fleet, user: User) -> User:
    assert await restart_container(fleet.engine, user.id, actor=COMMAND_LINE) is not None
    return user


async def _end_by_client(fleet: Fleet, user: User) -> User:
    """A client that was cut off for as long as the job allows ends its tasks, and is back unnoticed."""
    (one,) = alive(fleet, user.id)
    fleet.nomad.double.clients[one.node_id]._silent_too_long(one.id)
    return user


async def _refuse_key(fleet: Fleet, user: User) -> User:
    """The process that runs takes another key from now on; the next one takes the right one again."""
    row = await fleet.container_row(user.id)
    assert row is not None
    assert fleet.simulators is not None
    address = row["endpoint_address"], row["endpoint_port"]
    fleet.simulators.refuse_key(*address)
    event = InboxEvent(str(uuid.uuid4()), "session.status", session_name(user.chips[0]), {"event": {}})
    await record(fleet.engine, user.id, [event])
    return user


async def host(fleet: Fleet, name: str, verb: str) -> None:
    """Do something to a host of the Nomad double."""
    async with httpx.AsyncClient(base_url=fleet.nomad.url, trust_env=False) as http:
        (await http.put(f"/v1/double/host/{name}/{verb}")).raise_for_status()


def _stands(phase: str, waha: str) -> Callable[[Fleet, User], Awaitable[list[str]]]:
    async def problems(fleet: Fleet, user: User) -> list[str]:
        row = await fleet.chip_row(user.chips[0])
        if row is None or (row["phase"], row["reason"]) != (phase, None):
            return [f"chip: {row and (row['phase'], row['reason'])}"]
        return await problems_alive(fleet, user, {user.chips[0]: waha})

    return problems


_START = ("starts_taken", "tries_recorded", _STARTED)
_CREATE = (
    "effect_done WriteVariables",
    "effect_recorded WriteVariables",
    "effect_done RegisterJob",
    "effect_recorded RegisterJob",
    "starts_taken",
    "tries_recorded",
    "effect_done CreateSession",
)
_RENEWAL = (
    "effect_done WriteVariables",
    "effect_recorded WriteVariables",
    "effect_done RegisterJob",
    "effect_recorded RegisterJob",
    "effect_done ReplaceAllocation",
)
_DELETE = (
    "effect_done DeleteSession",
    "effect_done RemoveChip",
    "effect_done StopJob",
    "effect_done PurgeJob",
    "effect_done DeleteVariables",
    "effect_recorded DeleteVariables",
    "effect_done DeleteStorage",
    "effect_done RemoveContainer",
)

STORIES = {
    "create": Story(
        _nobody, _create, _stands("qr", "SCAN_QR_CODE"), (1, 1, 1), (*_PASS, *_CREATE), pairs=True
    ),
    "delete": Story(_connected, _delete, problems_gone, (0, 0, 0), (*_PASS, *_DELETE)),
    "disconnect": Story(
        _connected,
        _disconnect,
        _stands("disconnected", "STOPPED"),
        (0, 0, 0),
        (*_PASS, "effect_done StopSession"),
    ),
    "reconnect": Story(
        _disconnected, _reconnect, _stands("connected", "WORKING"), (0, 0, 1), (*_PASS, *_START)
    ),
    "restart": Story(
        _unlinked, _reconnect, _stands("qr", "SCAN_QR_CODE"), (0, 0, 1), (*_PASS, *_START), pairs=True
    ),
    "task restart": Story(
        _connected,
        _restart_task,
        _stands("connected", "WORKING"),
        (0, 0, 1),
        (*_PASS, *_START),
        ends_container=True,
    ),
    "node loss": Story(
        _connected,
        _cut_off,
        _stands("connected", "WORKING"),
        (1, 0, 1),
        (*_PASS, *_START),
        speed=NODE_LOSS_SPEED,
    ),
    "failed session": Story(
        _connected,
        _fail_session,
        _stands("connected", "WORKING"),
        (0, 0, 2),  # the one that failed, and the daemon's
        (*_PASS, "starts_taken", "tries_recorded", "effect_done RestartSession"),
        killed_at=("starts_taken", "tries_recorded", "effect_done RestartSession"),
    ),
    "container ended by its client": Story(
        _connected,
        _end_by_client,
        _stands("connected", "WORKING"),
        (1, 0, 1),
        (*_PASS, *_START, "effect_done EvaluateJob"),
        ends_container=True,
        killed_at=("effect_done EvaluateJob",),
        within_s=60,
    ),
    "restart by request": Story(
        _connected,
        _wish_restart,
        _stands("connected", "WORKING"),
        (0, 0, 1),
        (*_PASS, *_START, "effect_done RestartAllocation", "effect_recorded RestartAllocation"),
        ends_container=True,
        killed_at=("effect_done RestartAllocation", "effect_recorded RestartAllocation"),
    ),
    "key refused": Story(
        _connected,
        _refuse_key,
        _stands("connected", "WORKING"),
        (1, 1, 1),
        (*_PASS, *_START, *_RENEWAL),
        ends_container=True,
        killed_at=("effect_done ReplaceAllocation",),
        within_s=60,
    ),
}
