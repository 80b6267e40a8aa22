"""One user with a paired chip on a real Nomad of two hosts, and everything that happens to containers there.

A server, two clients with data folders, a Consul agent for each, PostgreSQL, API and daemon, as `wahafleet up`
runs them; the simulator takes the place of WAHA. The chip is scanned once, before the first walk. After each walk
it is CONNECTED again, reached where Nomad runs it, and no second job exists. What ran twice, and for how long, is
read from the simulators' own journal.

    pytest -s tests/e2e/test_walks_nomad.py                          # prints the figures
    WAHAFLEET_TEST_EVIDENCE=1 pytest ... tests/e2e/test_walks_nomad.py    # keeps them in docs/evidence too
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import pytest

from sandbox.agents.nomad_agent import nomad_version
from sandbox.waha import journal
from tests.e2e import walks
from tests.e2e.running import WAHAFLEET, Up, scratch, until
from tests.e2e.walks import Figures, Walks
from tests.real_agents import require_programs

STOP_ON_DISCONNECT_S: Final = 45
"""S: the least that is allowed, since it must exceed Nomad's heartbeat TTL of 10-20 s with room to spare."""
KILL_TIMEOUT_S: Final = 45
SILENCE_S: Final = 30
"""A node is called down at most this long after its last heartbeat: TTL and grace."""

BESIDE_S: Final = 5
"""How much longer a host stays away once its container is replaced, to see both run."""
STOP_S: Final = 3
"""A session takes its time to stop, as WAHA's do: were two containers allowed at one time, it would show."""

pytestmark = [pytest.mark.xdist_group("walks"), pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def walk() -> Iterator[Walks]:
    require_programs("nomad", "consul")
    version = nomad_version()
    assert version is not None
    with scratch() as folder:
        up = Up(
            folder,
            *("--nomad", "real", "--consul", "real", "--hosts", "2"),
            WAHAFLEET_STOP_ON_DISCONNECT_S=str(STOP_ON_DISCONNECT_S),
            # Tasks of raw_exec inherit the environment of their agent.
            WAHA_SIM_STOP_DELAY_S=str(STOP_S),
        )
        try:
            with up.wait_ready(90).client() as client:
                chip = client.create("walker")["id"]
                client.wait_qr(chip)
                assert up.run("phone", "scan", chip).returncode == 0
                client.wait_status(chip, "CONNECTED", 10)
                made = Walks(up, client, chip, version)
                yield made
                made.cluster.close()
                _tell(made)
        finally:
            up.end()


def _tell(made: Walks) -> None:
    settings = {
        "hosts": "2",
        "stop_on_client_after_s": str(STOP_ON_DISCONNECT_S),
        "kill_timeout_s": str(KILL_TIMEOUT_S),
        "a_session_stops_in_s": str(STOP_S),
    }
    told = [f"\nNomad {made.version}, {settings}:", *map(walks.line, made.done)]
    if os.environ.get("WAHAFLEET_TEST_EVIDENCE"):
        told.append(f"kept in {walks.write(made.version, settings, made.done)}")
    sys.stdout.write("\n".join(told) + "\n")


def nothing_ran_twice(figures: Figures) -> None:
    assert (figures.sessions, figures.tasks, figures.processes) == ([], [], 0)


def nothing_was_submitted(figures: Figures) -> None:
    assert (figures.registers, figures.version_moved) == (0, 0)


def test_a_drained_host_hands_its_container_over(walk: Walks) -> None:
    place = walk.begin()
    with walk.walk("drain") as figures:
        began = time.time()
        drain = {"DrainSpec": {"Deadline": 120 * 10**9}}
        walk.cluster.nomad.post(f"/node/{place.node}/drain", json=drain).raise_for_status()
        now = walk.back(figures, began, 60, unlike=place)
        assert now.node != place.node
    walk.cluster.nomad.post(
        f"/node/{place.node}/eligibility", json={"Eligibility": "eligible"}
    ).raise_for_status()
    nothing_ran_twice(figures)
    nothing_was_submitted(figures)


def test_a_stopped_allocation_is_replaced(walk: Walks) -> None:
    place = walk.begin()
    with walk.walk("alloc stop") as figures:
        began = time.time()
        walk.cluster.nomad.post(f"/allocation/{place.allocation}/stop").raise_for_status()
        walk.back(figures, began, 60, unlike=place)
    nothing_ran_twice(figures)
    nothing_was_submitted(figures)


@contextmanager
def daemon_with(walk: Walks, **settings: str) -> Iterator[None]:
    """Another daemon in the place of the sandbox's own, with other settings."""
    with walk.without("daemon"):
        log = (walk.up.folder / "other-daemon.log").open("ab")
        process = subprocess.Popen(
            [WAHAFLEET, "daemon"],
            env={**walk.up.env, **walk.settings, **settings},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            log.close()


def test_a_changed_setting_replaces_the_container_and_changes_back(walk: Walks) -> None:
    place = walk.begin()
    url = walk.settings["WAHAFLEET_HOOK_BASE_URL"].replace("127.0.0.1", "localhost")
    with walk.walk("change of a setting") as figures:
        began = time.time()
        with daemon_with(walk, WAHAFLEET_HOOK_BASE_URL=url):
            changed = walk.back(figures, began, 60, unlike=place)
    nothing_ran_twice(figures)
    assert (figures.registers, figures.version_moved) == (1, 1)
    with walk.walk("change back") as figures:
        # The sandbox's daemon is started again at the end of the walk above, and knows the old setting.
        walk.back(figures, time.time(), 60, unlike=changed)
    nothing_ran_twice(figures)
    assert (figures.registers, figures.version_moved) == (1, 1)


def test_a_job_edited_by_hand_is_ours_again(walk: Walks) -> None:
    place = walk.begin()
    ours = walk.cluster.get(f"/job/{walk.job}")
    with walk.walk("job edited by hand") as figures:
        began = time.time()
        edited = walk.cluster.get(f"/job/{walk.job}")
        edited["TaskGroups"][0]["Tasks"][0]["Resources"]["MemoryMB"] += 32
        walk.cluster.nomad.post("/jobs", json={"Job": edited}).raise_for_status()

        def restored() -> bool:
            job = walk.cluster.get(f"/job/{walk.job}")
            return bool(job["TaskGroups"] == ours["TaskGroups"] and job["Version"] > ours["Version"])

        until(restored, 60, "the job is what we registered")
        walk.back(figures, began, 60, unlike=place)
    nothing_ran_twice(figures)
    # Theirs and ours.
    assert (figures.registers, figures.version_moved) == (2, 2)


def test_a_job_stopped_by_hand_is_registered_again(walk: Walks) -> None:
    place = walk.begin()
    with walk.walk("job stopped by hand") as figures:
        began = time.time()
        walk.cluster.nomad.delete(f"/job/{walk.job}").raise_for_status()
        walk.back(figures, began, 60, unlike=place)
    nothing_ran_twice(figures)
    # The stop is a version too.
    assert (figures.registers, figures.version_moved) == (1, 2)


def test_a_job_purged_by_hand_is_registered_again(walk: Walks) -> None:
    place = walk.begin()
    with walk.walk("job purged by hand") as figures:
        began = time.time()
        walk.cluster.nomad.delete(f"/job/{walk.job}", params={"purge": "true"}).raise_for_status()
        # Nomad forgets the allocation while its task is being killed, so nobody reports its end.
        walk.back(figures, began, STOP_ON_DISCONNECT_S + KILL_TIMEOUT_S + 60, unlike=place)
    nothing_ran_twice(figures)
    assert figures.registers == 1


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
