"""What a killed owner left behind is found by its mark and ended; nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from sandbox.up import reaper
from sandbox.up.reaper import marked, sweep

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
SLEEP = [sys.executable, "-I", "-S", "-c", "import time; print(flush=True); time.sleep(60)"]
STUBBORN = [
    *(sys.executable, "-I", "-S", "-c"),
    "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)",
]


class Family:
    def __init__(self) -> None:
        self.mark = f"MARK={uuid.uuid4()}"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, argv: list[str], *, with_mark: bool = True) -> subprocess.Popen[bytes]:
        name, _, value = self.mark.partition("=")
        env = {**os.environ, name: value} if with_mark else dict(os.environ)
        process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE)
        self.processes.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process


@pytest.fixture
def family() -> Iterator[Family]:
    made = Family()
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


def test_only_marked_processes_are_ended(family: Family) -> None:
    ours, other = family.start(SLEEP), family.start(SLEEP, with_mark=False)
    assert marked(family.mark) == [ours.pid]
    assert marked(family.mark[:-1]) == []
    assert sweep(family.mark) == 1
    assert (ours.wait(5), other.poll()) == (-signal.SIGTERM, None)
    assert sweep(family.mark) == 0


def test_one_that_does_not_listen_is_cut_off(family: Family) -> None:
    stubborn = family.start(STUBBORN)
    assert sweep(family.mark, patience_s=0.1) == 1
    assert stubborn.wait(5) == -signal.SIGKILL


def test_the_process_beside_us_waits_for_our_end(family: Family) -> None:
    ours = family.start(SLEEP)
    beside = subprocess.Popen(
        [sys.executable, "-I", "-S", reaper.__file__, family.mark], stdin=subprocess.PIPE
    )
    assert beside.stdin is not None
    with pytest.raises(subprocess.TimeoutExpired):
        beside.wait(0.3)
    assert ours.poll() is None
    ours.terminate()
    ours.wait()
    beside.stdin.close()
    assert beside.wait(10) == 0
