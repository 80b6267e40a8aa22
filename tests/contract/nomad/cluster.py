"""One Nomad under test, real or double, as the cases see it: a base URL and a way to wait."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

from tests.contract.nomad.recorder import ConsulRecorder

SECOND = 1_000_000_000
DEADLINE_S = 20.0

Found = TypeVar("Found")


class Cluster:
    """Talks to the Nomad under test. Every job made here is purged when the case ends."""

    def __init__(self, url: str, kind: str, version: str, consul: ConsulRecorder) -> None:
        self.kind = kind
        self.version = version
        self.consul = consul
        self.http = httpx.Client(base_url=url, timeout=60, trust_env=False)
        self._jobs: list[str] = []
        self._variables: list[str] = []
        self._numbers = itertools.count(1)
        self._run = f"{time.time_ns() % 10**9:x}"

    @property
    def release(self) -> tuple[int, ...]:
        """(1, 10, 5): what differs between releases is told apart by this."""
        return tuple(int(part) for part in self.version.split("."))

    # --- making things

    def name(self, prefix: str = "case") -> str:
        """A job id that nothing else uses; purged afterwards."""
        job_id = f"{prefix}-{self._run}-{next(self._numbers)}"
        self._jobs.append(job_id)
        return job_id

    def job(
        self,
        job_id: str,
        command: str = "exec sleep 600",
        *,
        task: dict[str, Any] | None = None,
        group: dict[str, Any] | None = None,
        job: dict[str, Any] | None = None,
        memory_mb: int = 16,
    ) -> dict[str, Any]:
        """A small raw_exec job with one dynamic port and no deployments, as ours are."""
        return {
            "ID": job_id,
            "Name": job_id,
            "Type": "service",
            "Datacenters": ["*"],
            "TaskGroups": [
                {
                    "Name": "app",
                    "Count": 1,
                    "Networks": [{"DynamicPorts": [{"Label": "http"}]}],
                    "Update": {"MaxParallel": 0},
                    "RestartPolicy": {
                        "Attempts": 0,
                        "Interval": 60 * SECOND,
                        "Delay": SECOND,
                        "Mode": "fail",
                    },
                    "ReschedulePolicy": {"Attempts": 0, "Unlimited": False},
                    "EphemeralDisk": {"SizeMB": 20},
                    "Tasks": [
                        {
                            "Name": "main",
                            "Driver": "raw_exec",
                            "Config": {"command": "/bin/sh", "args": ["-c", command]},
                            "Resources": {"CPU": 10, "MemoryMB": memory_mb},
                            "LogConfig": {"MaxFiles": 1, "MaxFileSizeMB": 1},
                            "KillTimeout": 2 * SECOND,
                            **(task or {}),
                        }
                    ],
                    **(group or {}),
                }
            ],
            **(job or {}),
        }

    def register(self, job: dict[str, Any], **options: Any) -> dict[str, Any]:
        reply = self.http.put("/v1/jobs", json={"Job": job, **options})
        assert reply.status_code == 200, reply.text
        body: dict[str, Any] = reply.json()
        return body

    def put_variable(self, path: str, items: dict[str, str], **params: Any) -> httpx.Response:
        self._variables.append(path)
        return self.http.put(f"/v1/var/{path}", json={"Items": items}, params=params)

    def clean(self) -> None:
        for job_id in self._jobs:
            for alloc in self.get(f"/v1/job/{job_id}/allocations", all="true"):
                if alloc["ClientStatus"] in ("pending", "running"):
                    self.stop_and_wait(job_id)
                    break
            self.http.delete(f"/v1/job/{job_id}", params={"purge": "true"})
        for path in self._variables:
            self.http.delete(f"/v1/var/{path}")
        self._jobs.clear()
        self._variables.clear()

    def stop_and_wait(self, job_id: str) -> None:
        self.http.delete(f"/v1/job/{job_id}")
        self.until(
            lambda: all(a["ClientStatus"] in ("complete", "failed", "lost") for a in self.allocs(job_id))
        )

    # --- looking

    def get(self, path: str, **params: Any) -> Any:
        reply = self.http.get(path, params=params)
        assert reply.status_code == 200, f"{path}: {reply.status_code} {reply.text}"
        return reply.json()

    def allocs(self, job_id: str) -> list[dict[str, Any]]:
        """Oldest first."""
        found: list[dict[str, Any]] = self.get(f"/v1/job/{job_id}/allocations", all="true")
        return sorted(found, key=lambda alloc: alloc["CreateIndex"])

    def running(self, job_id: str, *, after: int = 0) -> dict[str, Any]:
        """The running allocation of a job, waited for; `after`: it must be newer than this CreateIndex."""

        def look() -> dict[str, Any] | None:
            alloc: dict[str, Any]
            for alloc in reversed(self.allocs(job_id)):
                if alloc["ClientStatus"] == "running" and alloc["CreateIndex"] > after:
                    return alloc
            return None

        return self.until(look)

    def alloc(self, alloc_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/v1/allocation/{alloc_id}")
        return found

    def evaluation(self, eval_id: str) -> dict[str, Any]:
        """An evaluation that is not pending any more."""

        def look() -> dict[str, Any] | None:
            found: dict[str, Any] = self.get(f"/v1/evaluation/{eval_id}")
            return found if found["Status"] != "pending" else None

        return self.until(look)

    def events_of(self, alloc_id: str) -> list[str]:
        states = self.alloc(alloc_id).get("TaskStates") or {"main": {"Events": []}}
        return [event["Type"] for event in states["main"]["Events"]]

    def stdout(self, alloc_id: str) -> str:
        params = {"task": "main", "type": "stdout", "plain": "true"}
        return self.http.get(f"/v1/client/fs/logs/{alloc_id}", params=params).text

    def until(self, look: Callable[[], Found | None], deadline_s: float = DEADLINE_S) -> Found:
        """Poll until `look` finds something."""
        deadline = time.monotonic() + deadline_s
        while True:
            found = look()
            if found:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing after {deadline_s:g} s")
            time.sleep(0.03)

    @contextmanager
    def stream(self, *topics: str, **params: Any) -> Iterator[Stream]:
        query = httpx.QueryParams([*params.items(), *(("topic", topic) for topic in topics)])
        with self.http.stream("GET", "/v1/event/stream", params=query, timeout=60) as reply:
            assert reply.status_code == 200
            yield Stream(reply)


class Stream:
    """Lines of an event stream, read by a thread."""

    def __init__(self, reply: httpx.Response) -> None:
        self.content_type = reply.headers["content-type"]
        self.lines: list[dict[str, Any]] = []
        self._reply = reply
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for line in list(self.lines) for event in line.get("Events") or ()]

    def _read(self) -> None:
        try:
            for line in self._reply.iter_lines():
                if line:
                    self.lines.append(json.loads(line))
        except (httpx.HTTPError, httpx.StreamError):
            return
