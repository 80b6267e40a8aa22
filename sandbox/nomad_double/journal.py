"""What happened, for tests that judge from it: registers, other writes about jobs, allocations and their processes."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Any

import msgspec

from sandbox.nomad_double.clock import Clock
from sandbox.nomad_double.commit import Commit
from sandbox.nomad_double.jobspec import spec_of
from sandbox.nomad_double.model import Json, nomad_name

MOST_ENTRIES = 500_000


class Entry(msgspec.Struct, frozen=True, rename=nomad_name, omit_defaults=True):
    """One thing that happened; `index` is the newest index by then.

    Attributes:
        kind: register, deregister, evaluate, alloc-stop, allocation or process.
        spec_hash: of an accepted register: of the canonical job, without what the store keeps about it.
        job_modify_index_before: of the stored job (0: there was none); `job_modify_index` is that after it.
        changed: the register made a new version.
        runs: of an allocation: does a task of it run, whatever is believed; of a process: it began or ended.
    """

    kind: str
    time: int
    index: int
    job_id: str
    namespace: str = ""
    eval_id: str = ""
    spec_hash: str = ""
    job_modify_index_before: int | None = None
    job_modify_index: int | None = None
    changed: bool | None = None
    purge: bool | None = None
    alloc_id: str = ""
    node_name: str = ""
    task: str = ""
    desired_status: str = ""
    client_status: str = ""
    desired_description: str = ""
    previous_allocation: str = ""
    runs: bool | None = None


class Journal:
    """The entries, oldest first; the oldest go when there are too many."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: deque[Entry] = deque(maxlen=MOST_ENTRIES)
        self._index = 0
        self._statuses: dict[str, tuple[str, str, str]] = {}
        self._registers: dict[str, Entry] = {}

    def note(self, kind: str, job_id: str, **more: Any) -> None:
        entry = Entry(kind=kind, time=self._clock.time_ns(), index=self._index, job_id=job_id, **more)
        self._entries.append(entry)
        if kind == "register":
            self._registers[entry.eval_id] = entry
            if len(self._registers) > MOST_ENTRIES:
                self._registers.pop(next(iter(self._registers)))

    def on_commit(self, commit: Commit, runs: Any) -> None:
        """Note every change of an allocation's statuses. `runs` tells whether a task of one runs."""
        self._index = commit.index
        for alloc_id in commit.touched_allocs:
            alloc = commit.state.allocs.get(alloc_id)
            if alloc is None:
                self._statuses.pop(alloc_id, None)
                continue
            statuses = (alloc.desired_status, alloc.client_status, alloc.desired_description)
            if self._statuses.get(alloc_id) == statuses:
                continue
            self._statuses[alloc_id] = statuses
            self.note(
                "allocation",
                alloc.job_id,
                namespace=alloc.namespace,
                alloc_id=alloc_id,
                eval_id=alloc.eval_id,
                node_name=alloc.node_name,
                desired_status=alloc.desired_status,
                client_status=alloc.client_status,
                desired_description=alloc.desired_description,
                previous_allocation=alloc.previous_allocation,
                job_modify_index=alloc.job["JobModifyIndex"],
                runs=runs(alloc),
            )

    def register_of(self, eval_id: str) -> Entry | None:
        """The accepted register that made this evaluation."""
        return self._registers.get(eval_id)

    def entries(self, *, job_id: str = "", kind: str = "", since_ns: int = 0) -> list[Json]:
        found: list[Json] = msgspec.to_builtins(
            [
                entry
                for entry in self._entries
                if job_id in ("", entry.job_id) and kind in ("", entry.kind) and entry.time >= since_ns
            ]
        )
        return found


def spec_hash(job: Json) -> str:
    """Names a spec: equal for two registers of the same job, whatever was left to defaults."""
    return hashlib.sha256(msgspec.json.encode(spec_of(job), order="deterministic")).hexdigest()[:16]
