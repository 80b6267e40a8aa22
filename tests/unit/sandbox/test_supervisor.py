"""Children are started, waited for, started again, and ended in the opposite order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from sandbox.up.data import DataFolder
from sandbox.up.errors import SandboxError
from sandbox.up.supervisor import Backoff, Child, Process, Supervisor
from sandbox.up.together import together
from tests.polling import eventually

AT_ONCE = Backoff(first_s=0, most_s=0)


class FakeProcess:
    """A process that does what the test says. It has the number of no process that could be signalled."""

    def __init__(self, name: str, log: list[str], *, stubborn: bool = False) -> None:
        self.name = name
        self.code: int | None = None
        self.pid = 2**22 + 7
        self._log = log
        self._stubborn = stubborn
        self._killed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def exit_code(self) -> int | None:
        return self.code

    def stop(self) -> None:
        if self._stubborn and self.code is None:
            asyncio.run_coroutine_threadsafe(self._killed.wait(), self._loop).result(10)
        if self.code is None:
            self.code = 0
            self._log.append(f"{self.name} stopped")

    def kill(self) -> None:
        self.code = -9
        self._log.append(f"{self.name} killed")
        self._killed.set()


class World:
    """A supervisor with fake children."""

    def __init__(self, folder: Path) -> None:
        self.log: list[str] = []
        self.said: list[str] = []
        self.processes: dict[str, list[FakeProcess]] = {}
        self.data = DataFolder.open(folder, api="http://127.0.0.1:1")
        self.supervisor = Supervisor(self.data, self._say, backoff=AT_ONCE)
        self.loop = asyncio.get_running_loop()

    def _say(self, name: str, sentence: str) -> None:
        self.said.append(f"{name} {sentence}")

    def child(self, name: str, *, stubborn: bool = False, ready: bool = True, start_s: float = 30) -> Child:
        def launch() -> FakeProcess:
            async def make() -> FakeProcess:
                return FakeProcess(name, self.log, stubborn=stubborn)

            process = asyncio.run_coroutine_threadsafe(make(), self.loop).result(10)
            self.processes.setdefault(name, []).append(process)
            return process

        async def is_ready() -> bool:
            return ready

        return Child(name=name, launch=launch, log=self.data.log(name), ready=is_ready, start_s=start_s)

    async def until(self, text: str) -> None:
        async def said() -> bool:
            return any(text in line for line in self.said)

        await eventually(said, 5, every_s=0.002)

    async def launched(self, name: str, times: int = 1) -> None:
        async def done() -> bool:
            return len(self.processes.get(name, ())) >= times

        await eventually(done, 5, every_s=0.002)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.supervisor.hurry()
    await made.supervisor.stop()
    made.data.close()


async def test_children_end_in_the_opposite_order_of_their_start(world: World) -> None:
    for name in ("postgres", "api", "daemon"):
        await world.supervisor.start(world.child(name))
    await world.supervisor.stop()
    assert world.log == ["daemon stopped", "api stopped", "postgres stopped"]
    await world.supervisor.stop()
    assert len(world.log) == 3


async def test_a_child_with_a_hold_file_stays_away_until_the_file_is_gone(world: World) -> None:
    await world.supervisor.start(world.child("nomad-2"))
    hold = world.data.hold("nomad-2")
    hold.touch()
    world.processes["nomad-2"][0].code = -9
    await world.until(f"nomad-2 stays away while the file {hold} exists")
    assert len(world.processes["nomad-2"]) == 1
    hold.unlink()
    await world.launched("nomad-2", 2)


async def test_a_hold_file_of_an_earlier_run_holds_nobody(world: World) -> None:
    world.data.hold("nomad-2").touch()
    await world.supervisor.start(world.child("nomad-2"))
    world.processes["nomad-2"][0].code = -9
    await world.launched("nomad-2", 2)


async def test_a_child_that_dies_is_started_again(world: World) -> None:
    await world.supervisor.start(world.child("daemon"))
    world.processes["daemon"][0].code = -9
    await world.until("daemon started again")
    assert len(world.processes["daemon"]) == 2
    assert any("was ended by signal 9; starting it again" in line for line in world.said)


async def test_who_died_is_told_before_the_next_start(world: World) -> None:
    told: list[tuple[int, int]] = []

    async def died(pid: int) -> None:
        told.append((pid, len(world.processes["daemon"])))
        raise OSError("the store is away")

    await world.supervisor.start(msgspec.structs.replace(world.child("daemon"), died=died))
    world.processes["daemon"][0].code = -9
    await world.until("daemon started again")
    assert told == [(world.processes["daemon"][0].pid, 1)]
    assert any("the store is away" in line for line in world.said)


async def test_a_child_that_keeps_dying_is_tried_again_and_again(world: World) -> None:
    await world.supervisor.start(world.child("daemon"))
    for lives in range(1, 5):
        world.processes["daemon"][-1].code = 1
        await world.launched("daemon", lives + 1)


async def test_a_start_that_fails_later_is_said_and_tried_again(world: World) -> None:
    child = world.child("valkey")
    broken = [True]

    def launch() -> object:
        if world.processes and broken and broken.pop():
            raise SandboxError("port 1 is busy.")
        return child.launch()

    await world.supervisor.start(
        Child(name="valkey", launch=launch, log=child.log)  # type: ignore[arg-type]  # FakeProcess, as above
    )
    world.processes["valkey"][0].code = 1
    await world.until("could not be started again: port 1 is busy.")
    await world.until("valkey started again")


async def test_a_child_that_dies_before_it_is_ready_fails_the_start(world: World) -> None:
    child = world.child("api", ready=False)
    child.log.write_text("first\nno such setting\n")
    starting = asyncio.create_task(world.supervisor.start(child))
    await world.launched("api")
    world.processes["api"][0].code = 2
    with pytest.raises(SandboxError, match="no such setting"):
        await starting


async def test_a_child_that_never_gets_ready_fails_the_start(world: World) -> None:
    with pytest.raises(SandboxError, match="not ready after 0 s"):
        await world.supervisor.start(world.child("api", ready=False, start_s=0))


async def test_what_a_cancelled_start_launched_is_ended_too(world: World) -> None:
    starting = asyncio.create_task(world.supervisor.start(world.child("api", ready=False)))
    await world.launched("api")
    starting.cancel()
    await asyncio.wait([starting])
    await world.supervisor.stop()
    assert world.log == ["api stopped"]


async def test_what_takes_its_time_to_launch_is_ended_too_whatever_was_cancelled_beside_it(
    world: World,
) -> None:
    may_launch, child = threading.Event(), world.child("slow")

    def launch() -> Process:
        assert may_launch.wait(10)
        return child.launch()

    slow = msgspec.structs.replace(child, launch=launch)
    # What starts beside it is over at the first word, which ends the rest once more.
    starting = asyncio.create_task(together(world.supervisor.start(slow), asyncio.sleep(60)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.sleep(0.05)
    starting.cancel()
    await asyncio.sleep(0.05)
    assert not starting.done()
    may_launch.set()
    await asyncio.wait([starting])
    assert starting.cancelled()
    await world.supervisor.stop()
    assert world.log == ["slow stopped"]


async def test_a_second_signal_cuts_a_stubborn_child_off(world: World) -> None:
    await world.supervisor.start(world.child("api", stubborn=True))
    world.supervisor.hurry()
    await world.supervisor.stop()
    assert world.log == ["api killed"]


async def test_records_of_ended_children_are_removed(world: World) -> None:
    await world.supervisor.start(world.child("api"))
    await world.supervisor.stop()
    assert list((world.data.path / "run").iterdir()) == []


def test_pauses_between_restarts_grow_to_a_limit() -> None:
    pauses = [Backoff().pause(failures) for failures in range(1, 2000)]
    assert pauses[0] == 0.2
    assert pauses == sorted(pauses)
    assert pauses[-1] == 10
