"""The daemon killed with SIGKILL at every named step of every story; a new one brings the world to its end.

The daemon announces each step (daemon/announce.py) and stands still until it may go on, so that the kill
happens at that step and at no other. PostgreSQL is the real one; Nomad and Consul are the doubles, whose
insides are looked at for what must not be there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from sandbox.postgres import EmbeddedPostgres
from tests.integration.daemon.fleet import Fleet, running_fleet, until
from tests.integration.daemon.process import DaemonProcess
from tests.integration.daemon.stories import STORIES, Mark, Story, host
from tests.integration.daemon.traces import User, problems_gone, strangers

pytestmark = [pytest.mark.timeout(90), pytest.mark.asyncio(loop_scope="module")]


class Stage:
    """One system for all cases, and the daemon that works in it: the one that took over is the next one's."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.users: list[User] = []
        self._daemon: DaemonProcess | None = None

    async def daemon(self) -> DaemonProcess:
        if self._daemon is None:
            self._daemon = await DaemonProcess.start(self.fleet)
        return self._daemon

    async def take_over(self) -> DaemonProcess:
        """Another daemon in the place of one that was killed."""
        if self._daemon is not None and self._daemon.alive:
            await self._daemon.kill()
        self._daemon = None
        return await self.daemon()

    async def converged(self, story: Story, user: User, mark: Mark, kills: int) -> None:
        """Waits until everything is as it must be, and was done as often as it had to be."""

        async def problems() -> list[str]:
            found = await story.problems(self.fleet, user)
            return found + await mark.problems(self.fleet, user, story, kills)

        await until(problems, lambda problems: not problems, story.within_s)

    async def clear(self, user: User) -> None:
        """Everything of the user goes again; this is a story of its own, and it too must leave nothing."""
        for name in ("host-1", "host-2"):
            await host(self.fleet, name, "back")
        for chip in user.chips:
            if await self.fleet.chip_row(chip) is not None:
                await self.fleet.delete(user.id, chip)
        await until(lambda: problems_gone(self.fleet, user), lambda problems: not problems, 30)
        assert strangers(self.fleet, []) == []

    async def close(self) -> None:
        if self._daemon is not None and self._daemon.alive:
            await self._daemon.ready()  # it may have begun a moment ago: the last case can end without it
            await self._daemon.end()


@pytest.fixture(scope="module")
def shared_database_url(postgres: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    url = postgres.create_database("test_kill", template=template_database)
    yield url
    postgres.drop_database("test_kill")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(shared_database_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    speed: float = request.param
    async with running_fleet(shared_database_url, hosts=2, inline=True, speed=speed) as fleet:
        made = Stage(fleet)
        try:
            yield made
        finally:
            await made.close()


@pytest.mark.parametrize(
    ("stage", "name"), [(s.speed, n) for n, s in STORIES.items()], ids=list(STORIES), indirect=["stage"]
)
async def test_no_step_of_a_story_is_left_out(stage: Stage, name: str) -> None:
    """What the daemon announces when nobody kills it: each of it has a case below."""
    story = STORIES[name]
    daemon = await stage.daemon()
    user = await story.prepare(stage.fleet)
    mark = Mark.now(stage.fleet, user)
    before = len(daemon.seen)
    user = await story.trigger(stage.fleet, user)
    await stage.converged(story, user, mark, 0)
    announced = {step for key, step in daemon.seen[before:] if key == user.id}
    assert announced - {other for step in story.steps for other in story.instead(step)} == set(), (
        "add them to tests/integration/daemon/stories.py"
    )
    await stage.clear(user)


CASES = [
    (story.speed, name, step) for name, story in STORIES.items() for step in story.killed_at or story.steps
]


@pytest.mark.parametrize(
    ("stage", "name", "step"),
    CASES,
    ids=[f"{name}-{step}".replace(" ", "-") for _, name, step in CASES],
    indirect=["stage"],
)
async def test_killed_at_a_step_the_world_converges(stage: Stage, name: str, step: str) -> None:
    story = STORIES[name]
    daemon = await stage.daemon()
    user = await story.prepare(stage.fleet)
    mark = Mark.now(stage.fleet, user)
    daemon.stop_at(user.id, *story.instead(step))
    user = await story.trigger(stage.fleet, user)
    await daemon.reaches(30)
    await daemon.kill()
    await stage.take_over()
    await stage.converged(story, user, mark, 1)
    await stage.clear(user)
