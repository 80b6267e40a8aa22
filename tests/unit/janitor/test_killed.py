"""A daemon that dies between any two steps of the janitor."""

from __future__ import annotations

from core.domain.belongings import Kind
from core.domain.orphans import State
from daemon.announce import Step
from tests.unit.daemon.system import World
from tests.unit.daemon.virtual import run_virtual
from tests.unit.janitor.case import Case, Killed


class KillAt:
    """Ends the daemon the n-th time that a step is reached."""

    def __init__(self) -> None:
        self.left = -1
        self.reached: list[str] = []

    def announce(self, step: Step, key: str, detail: str = "", /) -> None:
        self.reached.append(f"{step.value} {detail}")
        if self.left == 0:
            raise Killed
        self.left -= 1


def test_killed_between_any_two_steps_it_converges() -> None:
    """Whatever was not written down is found out by the next look."""

    async def main(kill_at: int) -> tuple[bool, list[str]]:
        steps = KillAt()
        case = Case(World(), steps=steps)
        await case.ghost_job()
        case.leave_namespace()
        await case.rounds(1.1)
        await case.approve(Kind.JOB, Kind.VARIABLES, Kind.NAMESPACE)
        steps.left = kill_at
        killed = False
        try:
            await case.rounds(0.2)
        except Killed:
            killed = True
            steps.left = -1
            await case.world.clock.sleep(61)  # its leases run out
            case.boot()
            await case.rounds(0.3)
        assert (case.world.nomad.held, case.world.nomad.variables, case.storage.names) == ({}, {}, set())
        assert {row.state for row in (await case.orphans.book()).rows} == {State.REMOVED}
        assert case.world.faults.count("nomad.stop") == 1
        return killed, steps.reached

    points = 0
    while run_virtual(main(points))[0]:
        points += 1
    assert points >= 12
