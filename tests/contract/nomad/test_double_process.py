"""The double as a process: what becomes of its tasks, its data and its registrations when it ends."""

from __future__ import annotations

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

from sandbox.tether import is_alive
from tests.contract.nomad.cluster import Cluster
from tests.contract.nomad.conftest import PORTS, first_port
from tests.contract.nomad.recorder import ConsulRecorder

Start = Callable[[], tuple[Cluster, subprocess.Popen[str]]]


@pytest.fixture
def recorder() -> Iterator[ConsulRecorder]:
    recorder = ConsulRecorder()
    yield recorder
    recorder.close()


@pytest.fixture
def start(tmp_path: Path, recorder: ConsulRecorder) -> Iterator[Start]:
    """Start a double on this test's folder; a second call goes on where the first one ended."""
    running: list[tuple[Cluster, subprocess.Popen[str]]] = []

    def start() -> tuple[Cluster, subprocess.Popen[str]]:
        first = first_port(PORTS)
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "sandbox.nomad_double", "--port", "0", "--data", str(tmp_path)),
                *("--consul-url", f"http://{recorder.address}", "--no-delays"),
                *("--min-port", str(first), "--max-port", str(first + PORTS - 1)),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["address"]
        running.append((Cluster(url, "double", "1.10.5", recorder), process))
        return running[-1]

    yield start
    for cluster, process in running:
        cluster.http.close()
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _task_pid(cluster: Cluster, alloc_id: str) -> int:
    return int(cluster.until(lambda: cluster.stdout(alloc_id).strip()))


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)


def _service() -> dict[str, Any]:
    return {"Services": [{"Name": "web", "PortLabel": "http"}]}


def test_sigterm_ends_every_task_and_nothing_else(start: Start) -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    cluster, process = start()
    command = "trap '' INT; echo $$; sleep 600 & wait; sleep 600"
    job = cluster.job("app", command, task={"KillTimeout": 300_000_000}, group=_service())
    cluster.register(job)
    alloc = cluster.running("app")
    pid = _task_pid(cluster, alloc["ID"])
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    cluster.until(lambda: cluster.consul.of_alloc(alloc["ID"]))
    process.terminate()
    assert process.wait(15) == 0
    assert _gone(pid)
    assert all(_gone(int(child)) for child in children.stdout.split())
    assert cluster.consul.services == {}
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children of a killed parent")
def test_a_killed_double_takes_its_tasks_along_and_brings_them_back(start: Start) -> None:
    cluster, process = start()
    cluster.register(cluster.job("app", "echo $$; exec sleep 600", group=_service()))
    before = cluster.running("app")
    pid = _task_pid(cluster, before["ID"])
    ports = cluster.alloc(before["ID"])["AllocatedResources"]["Shared"]["Ports"]
    process.kill()
    process.wait()
    assert _gone(pid)

    cluster, _ = start()
    cluster.until(lambda: cluster.events_of(before["ID"])[-2:] == ["Failed Restoring Task", "Started"])
    after = cluster.alloc(before["ID"])
    assert after["ClientStatus"] == "running"
    assert after["AllocatedResources"]["Shared"]["Ports"] == ports
    cluster.until(lambda: len(cluster.stdout(before["ID"]).split()) == 2)
    pids = cluster.stdout(before["ID"]).split()
    assert is_alive(int(pids[1]))
    assert len(cluster.consul.of_alloc(before["ID"])) == 1


def test_registrations_are_repaired_after_consul_lost_them(start: Start, recorder: ConsulRecorder) -> None:
    """A restart of the double compares at once; a running one does so every 30 s."""
    recorder.services["_nomad-task-stranger-group-app-web-http"] = {
        "ID": "_nomad-task-stranger-group-app-web-http",
        "Name": "web",
    }
    recorder.services["somebody-elses"] = {"ID": "somebody-elses", "Name": "db"}
    cluster, process = start()
    cluster.register(cluster.job("app", group=_service()))
    alloc = cluster.running("app")
    cluster.until(lambda: recorder.of_alloc(alloc["ID"]))
    cluster.until(lambda: "_nomad-task-stranger-group-app-web-http" not in recorder.services)
    assert "somebody-elses" in recorder.services
    process.send_signal(signal.SIGKILL)
    process.wait()
    recorder.services.clear()
    cluster, _ = start()
    cluster.until(lambda: recorder.of_alloc(alloc["ID"]))


def test_real_tasks_show_what_they_use(start: Start) -> None:
    cluster, _ = start()
    cluster.register(cluster.job("app", "while :; do :; done"))
    alloc = cluster.running("app")

    def sample() -> dict[str, Any] | None:
        stats: dict[str, Any] = cluster.get(f"/v1/client/allocation/{alloc['ID']}/stats")
        return stats if stats["ResourceUsage"]["CpuStats"]["Percent"] > 1 else None

    stats = cluster.until(sample)
    assert stats["Tasks"]["main"]["ResourceUsage"]["MemoryStats"]["RSS"] > 100_000
    assert stats["Tasks"]["main"]["Timestamp"] > 0
    assert os.getpid() not in map(int, stats["Tasks"]["main"]["Pids"])


def test_a_busy_port_gets_one_clear_sentence(start: Start, tmp_path: Path) -> None:
    cluster, _ = start()
    port = httpx.URL(str(cluster.http.base_url)).port
    second = subprocess.run(
        [sys.executable, "-m", "sandbox.nomad_double", "--port", str(port), "--data", str(tmp_path / "b")],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert second.returncode == 1
    assert "choose another --port" in second.stderr
    assert "Traceback" not in second.stderr
