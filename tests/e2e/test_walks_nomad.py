"""One user with a paired chip on a real Nomad of two hosts, and everything that moves its container.

A server, two clients with data folders, a Consul agent for each, PostgreSQL, API and daemon, as `wahafleet up`
runs them; the simulator takes the place of WAHA. The chip is scanned once, before the first walk. After each walk
it is CONNECTED again, reached where Nomad runs it, and no second job exists. What ran twice, and for how long, is
read from the simulators' own journal. What happens on its host is walked in `test_host_walks_nomad.py`.

    pytest -s tests/e2e/test_walks_nomad.py                          # prints the figures
    WAHAFLEET_TEST_EVIDENCE=1 pytest ... tests/e2e/test_walks_nomad.py    # keeps them in docs/evidence too
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.running import WAHAFLEET, until
from tests.e2e.walk_sandbox import (
    KILL_TIMEOUT_S,
    STOP_ON_DISCONNECT_S,
    nothing_ran_twice,
    nothing_was_submitted,
    walked,
)
from tests.e2e.walks import Walks

pytestmark = [pytest.mark.xdist_group("walks"), pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def walk() -> Iterator[Walks]:
    with walked() as made:
        yield made


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
