"""The hosts under test: Nomad's double at a higher speed, or real agents. Both freeze an agent while its tasks run on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

import httpx

from tests.contract.nomad.fleet import HOSTS, RealFleet

SECOND = 1_000_000_000


class Fleet(Protocol):
    """`hosts`: names. `stop_after_s`, `kill_s`: what jobs ask for, in the fleet's own time."""

    url: str
    hosts: tuple[str, ...]
    stop_after_s: int
    kill_s: int

    def freeze(self, host: str) -> None: ...
    def thaw(self, host: str) -> None: ...
    def close(self) -> None: ...


class FastDouble:
    """The double with a clock that runs `SPEED` times faster, otherwise as it is in production."""

    SPEED = 20
    stop_after_s = 60
    kill_s = 45

    def __init__(self, folder: Path, hosts: int, first_port: int) -> None:
        self.hosts = tuple(f"host-{number}" for number in range(1, hosts + 1))
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "sandbox.nomad_double", "--port", "0", "--data", str(folder)),
                *("--hosts", str(hosts), "--speed", str(self.SPEED)),
                *("--min-port", str(first_port), "--max-port", str(first_port + 99)),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url: str = json.loads(self._process.stdout.readline())["address"]

    def freeze(self, host: str) -> None:
        self._tell(host, "freeze")

    def thaw(self, host: str) -> None:
        self._tell(host, "back")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _tell(self, host: str, verb: str) -> None:
        reply = httpx.put(f"{self.url}/v1/double/host/{host}/{verb}", trust_env=False, timeout=30)
        assert reply.status_code == 200, reply.text


class RealAgents(RealFleet):
    """Two real Nomad clients and their server, with the short heartbeats of the contract's tests."""

    hosts: tuple[str, ...] = HOSTS
    stop_after_s = 6
    kill_s = 5


def job(job_id: str, env: dict[str, str], fleet: Fleet) -> dict[str, Any]:
    """A user's job with the blocks of jobspecs/waha-simulator.nomad.hcl that decide what happens to a lost host."""
    return {
        "ID": job_id,
        "Name": job_id,
        "Type": "service",
        "Datacenters": ["*"],
        "TaskGroups": [
            {
                "Name": "app",
                "Count": 1,
                "Update": {"MaxParallel": 0},
                "Disconnect": {"StopOnClientAfter": fleet.stop_after_s * SECOND},
                "RestartPolicy": {"Attempts": 3, "Interval": 300 * SECOND, "Delay": SECOND, "Mode": "fail"},
                "ReschedulePolicy": {
                    "Delay": 15 * SECOND,
                    "DelayFunction": "exponential",
                    "MaxDelay": 300 * SECOND,
                    "Unlimited": True,
                },
                "EphemeralDisk": {"SizeMB": 20},
                "Tasks": [
                    {
                        "Name": "main",
                        "Driver": "raw_exec",
                        "Config": {
                            "command": sys.executable,
                            "args": ["-m", "tests.integration.fence.sender"],
                        },
                        "Env": env | {"NODE_ID": "${node.unique.id}", "NODE_NAME": "${node.unique.name}"},
                        "Resources": {"CPU": 10, "MemoryMB": 32},
                        "LogConfig": {"MaxFiles": 1, "MaxFileSizeMB": 1},
                        "KillTimeout": fleet.kill_s * SECOND,
                    }
                ],
            }
        ],
    }
