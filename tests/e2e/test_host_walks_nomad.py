"""As `test_walks_nomad.py`, on the chip's host: its process is killed, its agent killed, frozen or started anew."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final

import pytest

from sandbox.waha import journal
from tests.e2e.running import until
from tests.e2e.walk_sandbox import (
    KILL_TIMEOUT_S,
    STOP_ON_DISCONNECT_S,
    nothing_ran_twice,
    nothing_was_submitted,
    walked,
)
from tests.e2e.walks import Figures, Walks

SILENCE_S: Final = 30
"""A node is called down at most this long after its last heartbeat: TTL and grace."""
BESIDE_S: Final = 5
"""How much longer a host stays away once its container is replaced, to see both run."""

pytestmark = [pytest.mark.xdist_group("walks"), pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def walk() -> Iterator[Walks]:
    with walked() as made:
        yield made


def test_a_killed_process_is_started_again_in_place(walk: Walks) -> None:
    place = walk.begin()
    pids = {one.pid for one in journal.read(walk.journal) if one.allocation == place.allocation}
    with walk.walk("process killed by hand") as figures:
        began = time.time()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert walk.back(figures, began, 60) == place
    nothing_ran_twice(figures)
    nothing_was_submitted(figures)


def lost_and_back(walk: Walks, figures: Figures, began: float) -> None:
    """The host of the chip is silent: what must be seen until its container is replaced and connected."""
    place = walk.cluster.placed(walk.job)
    assert place is not None
    before = walk.cluster.submitted(walk.job)

    def host_is_down() -> bool:
        return bool(walk.cluster.get(f"/node/{place.node}")["Status"] == "down")

    until(host_is_down, SILENCE_S + 15, "Nomad calls the host down")
    figures.facts["host down after"] = round(time.time() - began, 1)

    def replaced() -> bool:
        now = walk.cluster.placed(walk.job)
        return now is not None and now.node != place.node

    until(replaced, STOP_ON_DISCONNECT_S + KILL_TIMEOUT_S + 30, "Nomad replaces the container")
    figures.facts["replaced after"] = round(time.time() - began, 1)
    now = walk.back(figures, began, 90, unlike=place)
    assert now.node != place.node
    # Nobody was there to stop the old one: it runs on beside the new one, and Consul still believes in it.
    time.sleep(BESIDE_S)
    assert walk.settled() == now
    assert set(walk.cluster.passing(walk.user)) == {place.allocation, now.allocation}
    assert walk.cluster.submitted(walk.job) == before


def after_the_return(walk: Walks, figures: Figures, began: float) -> None:
    """The host is back: one container, the new one, and the chip stays CONNECTED."""
    until(walk.cluster.ready, 60, "the host is back")

    until(walk.alone, KILL_TIMEOUT_S + 30, "the old container has ended")
    figures.facts["old one ended after"] = round(time.time() - began, 1)
    assert walk.settled() is not None


def away_and_back(walk: Walks, name: str, away: Callable[[str], AbstractContextManager[None]]) -> None:
    """The agent of the chip's host goes away, until its container runs elsewhere, and returns."""
    place = walk.begin()
    with walk.walk(name) as figures:
        began = time.time()
        with away(walk.agent(place)):
            lost_and_back(walk, figures, began)
        figures.facts["agent back after"] = round(time.time() - began, 1)
        after_the_return(walk, figures, began)
    nothing_was_submitted(figures)


def test_a_host_whose_agent_is_killed_is_replaced_and_comes_back(walk: Walks) -> None:
    away_and_back(walk, "agent killed", walk.without)


def test_a_host_whose_agent_is_frozen_is_replaced_and_comes_back(walk: Walks) -> None:
    away_and_back(walk, "agent frozen", walk.frozen)


def test_an_agent_that_is_only_started_anew_keeps_its_container(walk: Walks) -> None:
    place = walk.begin()
    with walk.walk("agent restarted") as figures:
        agent = walk.agent(place)
        old = walk.up.pid(agent)
        os.kill(old, signal.SIGKILL)
        until(lambda: walk.up.pid(agent) != old, 30, "the agent is started again")
        until(walk.cluster.ready, 60, "both hosts are ready")
        assert walk.back(figures, 0.0, 30) == place
        figures.connected_after_s = 0.0
    nothing_ran_twice(figures)
    nothing_was_submitted(figures)
