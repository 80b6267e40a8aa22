"""What a forked daemon runs. Light, since the server that forks them imports it before anything else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from multiprocessing.connection import Connection

from core.settings import load
from daemon.main import run


def main(env: Mapping[str, str], steps: Connection | None, acks: Connection | None, *, quiet: bool) -> None:
    """`wahafleet daemon` with exactly this environment; `steps` and `acks` are its pipes to the test."""
    os.environ.clear()
    os.environ.update(env)
    if steps is not None and acks is not None:
        os.environ["WAHAFLEET_TEST_STEP_FD"] = str(steps.fileno())
        os.environ["WAHAFLEET_TEST_ACK_FD"] = str(acks.fileno())
    if quiet:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    run(load(part="daemon"))
