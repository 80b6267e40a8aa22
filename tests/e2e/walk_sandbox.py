"""What walks on a real Nomad need: a sandbox of two hosts, its times, and what no walk may show.

A chip that is started nine times within half an hour is held back by its breaker, so each file of walks has a
sandbox of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sandbox.agents.nomad_agent import nomad_version
from tests.e2e import walks
from tests.e2e.running import Up, scratch
from tests.e2e.walks import Figures, Walks
from tests.real_agents import require_programs

STOP_ON_DISCONNECT_S: Final = 45
"""S: the least that is allowed, since it must exceed Nomad's heartbeat TTL of 10-20 s with room to spare."""
KILL_TIMEOUT_S: Final = 45
STOP_S: Final = 3
"""A session takes its time to stop, as WAHA's do: were two containers allowed at one time, it would show."""


@contextmanager
def walked() -> Iterator[Walks]:
    """A sandbox of two real hosts with one user and one paired chip; prints the figures of all walks at the end."""
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
