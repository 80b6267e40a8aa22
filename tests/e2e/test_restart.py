"""State outlives `wahafleet up`, however it ended."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.e2e.running import Up, scratch, until
from tests.real_agents import require_programs

DOUBLES = ("--nomad", "double", "--consul", "double")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "SIGKILL"])
@pytest.mark.parametrize("kind", ["double", "real"])
def test_the_same_chips_and_their_containers_come_back(how: signal.Signals, kind: str) -> None:
    if kind == "real":
        require_programs("nomad", "consul")
    agents = ("--nomad", kind, "--consul", kind, "--hosts", "2")
    with scratch() as folder:
        up = Up(folder, *agents)
        again: Up | None = None
        try:
            with up.wait_ready().client() as client:
                paired, waiting = client.create("paired")["id"], client.create("waiting")["id"]
                client.wait_qr(paired)
                client.wait_qr(waiting)
                assert up.run("phone", "scan", "paired").returncode == 0
                number = client.wait_status(paired, "CONNECTED", 5)["phone_number"]
                container = up.run("container", "show", "test@whago.com", "--secrets", "-o", "json").stdout
            up.end(how)
            if how is signal.SIGKILL:
                # Nobody is left to end the rest in order; it must notice by itself, and soon.
                # The last of them are given 12 s before they are killed, on a machine with nothing else to do.
                with suppress(AssertionError):
                    until(lambda: not up.processes(), 30, "nothing is left of a killed run")
            assert up.processes() == {}
            again = Up(folder, *agents, port=up.port)
            with again.wait_ready().client() as client:
                assert [chip["alias"] for chip in client.chips()] == ["paired", "waiting"]
                # Paired chips are back without a scan, by the credentials that they had.
                assert client.wait_status(paired, "CONNECTED", 60)["phone_number"] == number
                client.wait_qr(waiting, 60)
                shown = again.run("container", "show", "test@whago.com", "--secrets", "-o", "json").stdout
                key = '"api_key": "'
                assert shown.partition(key)[2][:64] == container.partition(key)[2][:64] != ""
        finally:
            up.end()
            if again is not None:
                assert again.end() == 0
                assert again.processes() == {}


@pytest.fixture(scope="module")
def finished() -> Iterator[Up]:
    """A sandbox that ran before and does not run now."""
    with scratch() as folder:
        up = Up(folder, *DOUBLES)
        up.wait_ready()
        up.end()
        yield up


def test_ctrl_c_ends_everything_and_says_so(finished: Up) -> None:
    assert finished.process.returncode == 0
    assert finished.processes() == {}
    assert "SIGINT: ending everything" in finished.said()
    assert "Traceback" not in finished.said()


def test_ctrl_c_twice_ends_everything_all_the_same(finished: Up) -> None:
    up = Up(finished.folder, *DOUBLES)
    up.wait_ready()
    up.process.send_signal(signal.SIGINT)
    up.wait_said("SIGINT: ending everything")
    assert up.end(signal.SIGINT, 20) == 0
    assert up.processes() == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("at", ["starting on", "0.6 s", "1.5 s", "2.5 s"])
def test_a_signal_during_the_start_leaves_nothing(finished: Up, number: signal.Signals, at: str) -> None:
    up = Up(finished.folder, *DOUBLES).wait_said("starting on")
    if at.endswith(" s"):
        time.sleep(float(at[:-2]))
    assert up.end(number, 60) == 0, up.said()
    assert up.processes() == {}
    assert "Traceback" not in up.said(), up.said()
