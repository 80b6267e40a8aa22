"""An operator looks into a container and restarts it: true figures, its log, and the chip back without a QR.

On doubles, and on real agents where they are on PATH: there the simulator is a process that Nomad's raw_exec
started, and what Nomad says of it is held against /proc.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.up.data import read_env
from sandbox.up.environment import simulator_storage
from sandbox.waha import journal
from tests.e2e.running import EMAIL, WAHAFLEET, Client, Up, scratch, until
from tests.real_agents import require_programs

pytestmark = pytest.mark.timeout(300)
MB = 1024 * 1024


class Looked:
    """A sandbox with one connected chip."""

    def __init__(self, up: Up, client: Client, chip: str, kind: str) -> None:
        self.up, self.client, self.chip, self.kind = up, client, chip, kind
        self._journal = simulator_storage(up.data)

    def stats(self) -> dict[str, Any]:
        done = self.up.run("container", "stats", EMAIL, "-o", "json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def logs(self, *options: str) -> list[str]:
        done = self.up.run("container", "logs", EMAIL, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def show(self, *options: str) -> dict[str, Any]:
        done = self.up.run("container", "show", EMAIL, "-o", "json", *options)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    @contextmanager
    def reasons(self) -> Iterator[set[str | None]]:
        """Every reason that its owner could read meanwhile: a restart of the double is over within one verb."""
        seen: set[str | None] = set()
        over = threading.Event()

        def read() -> None:
            headers = {"Authorization": self.client.http.headers["Authorization"]}
            with httpx.Client(base_url=self.client.http.base_url, headers=headers, trust_env=False) as http:
                while not over.wait(0.02):
                    answer = http.get("/me/container")
                    if answer.status_code == 200:
                        seen.add(answer.json()["reason"])

        reader = threading.Thread(target=read, name="reasons", daemon=True)
        reader.start()
        try:
            yield seen
        finally:
            over.set()
            reader.join(10)

    def process(self) -> int:
        """The one that runs the chip's session, as the simulator itself wrote down."""
        return journal.read(self._journal)[-1].pid


@pytest.fixture(scope="module", params=["double", "real"])
def looked(request: pytest.FixtureRequest) -> Iterator[Looked]:
    kind = request.param
    if kind == "real":
        require_programs("nomad", "consul")
    with scratch() as folder:
        up = Up(folder, "--nomad", kind, "--consul", kind)
        try:
            with up.wait_ready(90).client() as client:
                chip = client.create("looked into")["id"]
                client.wait_qr(chip)
                assert up.run("phone", "scan", chip).returncode == 0
                client.wait_status(chip, "CONNECTED", 20)
                yield Looked(up, client, chip, kind)
        finally:
            up.end()


def resident(pid: int) -> int:
    """Bytes of the process in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_stats_are_those_of_the_process(looked: Looked) -> None:
    def close() -> dict[str, Any] | None:
        seen = looked.stats()
        if seen["sampled_at"] is None:
            return None
        really = resident(looked.process()) / MB
        # A simulator takes 25 to 40 MB; raw_exec counts the shell of its executor's group too.
        return seen if abs(seen["memory_usage_mb"] - really) < 8 else None

    seen = until(close, 30, "stats are what /proc says") or {}
    assert 0 <= seen["cpu_percent"] < 100
    assert seen["memory_limit_mb"] > 0
    assert seen["memory_percent"] == pytest.approx(
        100 * seen["memory_usage_mb"] / seen["memory_limit_mb"], abs=0.1
    )
    assert (seen["network_rx_bytes"], seen["network_tx_bytes"]) == (None, None)
    # Sampled on while somebody looks.
    until(lambda: looked.stats()["sampled_at"] not in (None, seen["sampled_at"]), 20, "another sample")
    table = looked.up.run("container", "stats", EMAIL)
    assert table.returncode == 0
    assert "% of one core" in table.stdout


def test_the_log_is_the_simulator_s_without_its_keys(looked: Looked) -> None:
    lines = until(lambda: looked.logs("-n", "2000"), 20, "the log is read")
    events = [json.loads(line)["event"] for line in lines if line.startswith("{")]
    assert events, lines
    secrets = looked.show("--secrets")
    assert secrets["api_key"] not in "\n".join(lines)
    assert looked.logs("-n", "1") == lines[-1:]


def test_a_followed_log_shows_what_comes(looked: Looked) -> None:
    before = len(looked.logs("-n", "2000"))
    command = [WAHAFLEET, "container", "logs", "-f", "-n", "1", EMAIL]
    following = subprocess.Popen(command, env=looked.up.env, stdout=subprocess.PIPE, text=True)
    try:
        assert following.stdout is not None
        first = following.stdout.readline()
        assert first
        looked.client.create("makes a line")
        second = following.stdout.readline()
        assert second
        assert second != first
    finally:
        following.terminate()
        following.wait(10)
        assert following.stdout is not None
        following.stdout.close()
    assert len(looked.logs("-n", "2000")) > before


def test_a_restart_keeps_the_place_and_asks_for_no_qr(looked: Looked) -> None:
    place, process = looked.show(), looked.process()
    began = time.monotonic()
    seen: set[tuple[str, str | None]] = set()

    def back() -> bool:
        chip = looked.client.chip(looked.chip)
        seen.add((chip["status"], chip["extra_data"]["reason"]))
        return bool(
            looked.process() != process and chip["status"] == "CONNECTED" and not chip["extra_data"]["reason"]
        )

    with looked.reasons() as reasons:
        done = looked.up.run("container", "restart", EMAIL)
        assert done.returncode == 0, done.stderr
        until(back, 60, "the chip is back in another process")
    took = time.monotonic() - began
    print(f"\nrestart on {looked.kind}: {took:.1f} s, seen {sorted(seen, key=str)}")  # noqa: T201 - a figure for people
    assert not Path(f"/proc/{process}").exists()
    assert {status for status, _ in seen} <= {"CONNECTED", "CONNECTING"}, "nobody had to scan"
    assert "restarting" in reasons
    now = looked.show()
    assert (now["container_id"], now["port"], now["epoch"]) == (
        place["container_id"],
        place["port"],
        place["epoch"],
    )
    assert (now["phase"], now["reason"]) == ("ready", None)
    # Its owner may do the same.
    answer = looked.client.http.post("/me/container/restart")
    assert answer.status_code == 202
    process = looked.process()
    until(lambda: looked.process() != process, 60, "another process again")
    looked.client.wait_status(looked.chip, "CONNECTED", 60)
    assert looked.client.http.get("/me/container").json()["chips"] >= 1


def test_the_daemon_s_log_and_the_store_know_no_key(looked: Looked) -> None:
    secrets = looked.show("--secrets")
    env = read_env(looked.up.data / "settings.env")
    assert secrets["api_key"] not in looked.up.said()
    for file in (looked.up.data / "log").glob("*"):
        text = file.read_text(errors="replace")
        assert secrets["api_key"] not in text
        assert env["WAHAFLEET_OPERATOR_TOKEN"] not in text
