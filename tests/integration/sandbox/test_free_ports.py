"""Ports for sandboxes that start side by side on one machine."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections import deque

import pytest

from sandbox import free_ports

_NAMER = """
import sys
from sandbox.free_ports import free_port
print(free_port(), flush=True)
sys.stdin.read()
"""


class Drawn:
    """Draws these numbers, in this order."""

    def __init__(self, *ports: int) -> None:
        self._left = deque(ports)

    def randrange(self, *_range: int) -> int:
        return self._left.popleft()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names outside the file system")
def test_a_port_that_another_process_was_told_is_told_to_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _NAMER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        taken = int(other.stdout.readline())
        spare = free_ports.free_port()
        # Nobody listens on it yet, so that a look alone would give it away.
        assert free_ports.is_free("127.0.0.1", taken)
        monkeypatch.setattr(free_ports, "_random", Drawn(taken, spare + 1, spare + 2, spare + 3, spare + 4))
        assert free_ports.free_port() != taken
        other.stdin.close()
        assert other.wait(20) == 0
    monkeypatch.setattr(free_ports, "_random", Drawn(taken))
    assert free_ports.free_port() == taken


def test_ports_of_one_call_differ() -> None:
    assert len(set(free_ports.free_ports(50))) == 50


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no second loopback address")
def test_a_range_is_free_on_every_address_and_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_ports, "_random", Drawn(17_100, 17_200, 17_300, 17_400, 17_500))
    with socket.socket() as user:
        user.bind(("127.0.0.2", 17_150))
        first = free_ports.free_range(100, "127.0.0.1", "127.0.0.2")
    assert first in {17_200, 17_300}
    again = free_ports.free_range(10, "127.0.0.1")
    assert again not in {first, 17_100}
