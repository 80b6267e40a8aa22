"""The simulator as a process of its own: how it starts, ends, survives, and what it costs."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import sandbox.waha
from sandbox.free_ports import free_port
from sandbox.waha import journal, phone

from .conftest import KEY, container_env

SCRIPT = Path(sandbox.waha.__file__).with_name("__main__.py")
MAX_RESIDENT_KIB = 12 * 1024

Start = Callable[..., "Process"]


class Process:
    """One `python -I -S .../sandbox/waha/__main__.py`."""

    def __init__(self, folder: Path, command: list[str], **env: str) -> None:
        self.port = free_port()
        environment = {**container_env(folder), "WHATSAPP_API_PORT": str(self.port), **env}
        begun = time.perf_counter()
        self.child = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/"
        )
        assert self.child.stdout is not None
        self.first_line = self.child.stdout.readline()
        self.start_seconds = time.perf_counter() - begun
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait(10)
        for pipe in (self.child.stdout, self.child.stderr):
            assert pipe is not None
            pipe.close()

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"X-Api-Key": KEY}, trust_env=False, timeout=30)

    def resident_kib(self) -> int:
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1])

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Exit code and the rest of the log."""
        self.child.send_signal(number)
        out, err = self.child.communicate(timeout=20)
        assert err == b"", err.decode()
        return self.child.returncode, out.decode()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(**env)`: a process on this test's store."""
    started: list[Process] = []

    def begin(*, command: list[str] | None = None, **env: str) -> Process:
        process = Process(tmp_path, command or [sys.executable, "-I", "-S", str(SCRIPT)], **env)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.close()


def wait_for(http: httpx.Client, name: str, status: str) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if http.get(f"/api/sessions/{name}").json()["status"] == status:
            return
        time.sleep(0.01)
    raise AssertionError(f"{name} never was {status}")


def pair(process: Process, name: str) -> None:
    with process.client() as http:
        assert http.post("/api/sessions", json={"name": name, "start": True}).status_code == 201
    assert asyncio.run(phone.scan(process.url, KEY, name)).status == "WORKING"


def test_sessions_survive_a_graceful_end(start: Start) -> None:
    first = start()
    pair(first, "s")
    code, log = first.end()
    assert code == 0
    assert json.loads(log.splitlines()[-1])["event"] == "stopped"
    second = start()
    with second.client() as http:
        wait_for(http, "s", "WORKING")
        assert http.get("/api/sessions/s").json()["me"]["id"].endswith("@c.us")


def test_sessions_survive_a_kill(start: Start) -> None:
    first = start()
    pair(first, "s")
    first.end(signal.SIGKILL)
    second = start()
    with second.client() as http:
        wait_for(http, "s", "WORKING")


def test_the_journal_shows_one_after_the_other_and_both_at_once(start: Start, tmp_path: Path) -> None:
    first = start(NOMAD_ALLOC_ID="alloc-1")
    pair(first, "s")
    first.end(signal.SIGKILL)
    second = start(NOMAD_ALLOC_ID="alloc-2")
    with second.client() as http:
        wait_for(http, "s", "WORKING")
    assert journal.overlaps(tmp_path) == []
    third = start(NOMAD_ALLOC_ID="alloc-3")
    with third.client() as http:
        wait_for(http, "s", "WORKING")
    time.sleep(0.05)
    (overlap, *_) = journal.overlaps(tmp_path)
    assert {overlap.first.allocation, overlap.second.allocation} == {"alloc-2", "alloc-3"}


def test_server_stop_ends_the_process(start: Start) -> None:
    process = start()
    with process.client() as http:
        begun = http.get("/api/server/status").json()["startTimestamp"]
        assert http.post("/api/server/stop", json={}).json() == {"stopping": True}
    assert process.child.wait(20) == 0
    again = start()
    with again.client() as http:
        assert http.get("/api/server/status").json()["startTimestamp"] > begun
        assert http.post("/api/server/stop", json={"force": True}).status_code == 201
    assert again.child.wait(20) == -signal.SIGKILL


def test_it_ends_when_its_owner_is_gone(start: Start, tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    pidfile = tmp_path / "owner.pid"
    pidfile.write_text(f"{owner.pid}\n")
    process = start(WAHA_SIM_OWNER_PIDFILE=str(pidfile), WAHA_SIM_OWNER_GRACE_S="0.1")
    with pytest.raises(subprocess.TimeoutExpired):
        process.child.wait(1.5)
    owner.communicate(b"\n")
    assert process.child.wait(10) == 0
    assert process.child.stdout is not None
    assert b"owner_gone" in process.child.stdout.read()


def test_a_new_owner_in_the_file_is_accepted(start: Start, tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    pidfile = tmp_path / "owner.pid"
    pidfile.write_text(str(owner.pid))
    process = start(WAHA_SIM_OWNER_PIDFILE=str(pidfile), WAHA_SIM_OWNER_GRACE_S="1.5")
    owner.communicate(b"\n")
    pidfile.write_text(str(os.getpid()))
    with pytest.raises(subprocess.TimeoutExpired):
        process.child.wait(3)


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"WAHA_SIM_STORE_DIR": ""}, "WAHA_SIM_STORE_DIR"),
        ({"WHATSAPP_DEFAULT_ENGINE": "VENOM"}, "WHATSAPP_DEFAULT_ENGINE"),
        ({"WAHA_SIM_STORE_DIR": "/proc/nowhere"}, "/proc/nowhere"),
        ({"WAHA_SIM_FAULTS": "[]"}, "faults"),
    ],
)
def test_a_bad_start_is_one_line_and_exit_1(start: Start, env: dict[str, str], says: str) -> None:
    process = start(**env)
    assert process.child.wait(10) == 1
    line: dict[str, Any] = json.loads(process.first_line)
    assert line["event"] == "start_failed"
    assert says in line["problem"]
    assert process.child.stderr is not None
    assert process.child.stderr.read() == b""


def test_a_taken_port_is_said(start: Start) -> None:
    first = start()
    second = start(WHATSAPP_API_PORT=str(first.port))
    assert second.child.wait(10) == errno.EADDRINUSE  # what the daemon reads as `port_in_use`
    assert "in use" in json.loads(second.first_line)["problem"]


def test_the_module_form_works_too(start: Start) -> None:
    root = str(SCRIPT.parents[2])
    process = start(command=[sys.executable, "-m", "sandbox.waha"], PYTHONPATH=root)
    pair(process, "s")


def test_the_log_has_no_secrets(start: Start) -> None:
    process = start(WAHA_SIM_CLOCK_SPEED="1")
    with process.client() as http:
        http.post("/api/sessions", json={"name": "s", "start": True})
        value = http.get("/api/s/auth/qr?format=raw").json()["value"]
    _, log = process.end()
    assert '"status":"SCAN_QR_CODE"' in log
    assert value not in log
    assert KEY not in log


def test_an_idle_process_is_small_and_starts_fast(start: Start) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc on this system")
    # The first one writes the byte code that later ones load.
    start().end()
    processes = [start() for _ in range(5)]
    for process in processes:
        with process.client() as http:
            assert http.get("/ping").status_code == 200
    assert min(process.resident_kib() for process in processes) <= MAX_RESIDENT_KIB
    # Other work on the machine only ever makes a start slower, so the fastest one tells.
    assert min(process.start_seconds for process in processes) <= 0.1
