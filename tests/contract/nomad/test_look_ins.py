"""Looks into an allocation through the client that the daemon uses: what a task uses, prints, and its restart."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from core.clients.scheduler import NomadScheduler
from core.clients.scheduler_look_ins import NomadLookIns, Stream, Usage
from core.domain.log_lines import Piece, take
from core.domain.names import GROUP_NAME, TASK_NAME
from core.errors import Missing, StaleWrite
from core.settings import NomadSettings
from tests.contract.nomad.cluster import Cluster

T = TypeVar("T")
NOBODY = "00000000-0000-4000-8000-000000000000"
# Holds 48 MB and works for a fifth of the time.
WORKER = (
    "import time; held = bytearray(48 << 20); began = time.process_time(); print('works', flush=True)\n"
    "while True:\n"
    "    until = time.perf_counter() + 0.02\n"
    "    while time.perf_counter() < until: pass\n"
    "    time.sleep(0.08)\n"
)


def asked(cluster: Cluster, ask: Callable[[NomadScheduler, NomadLookIns], Awaitable[T]]) -> T:
    async def main() -> T:
        settings = NomadSettings(str(cluster.http.base_url).rstrip("/"), None, "default", 30, 10, None)
        scheduler = NomadScheduler(settings, threads=2)
        try:
            return await ask(scheduler, NomadLookIns(scheduler))
        finally:
            await scheduler.aclose()

    return asyncio.run(main())


def started(cluster: Cluster, command: str) -> dict[str, Any]:
    """The running allocation of a job of one task with our names."""
    named = {
        "Name": TASK_NAME,
        "LogConfig": {"MaxFiles": 2, "MaxFileSizeMB": 1},
        "Resources": {"CPU": 10, "MemoryMB": 128},  # Nomad kills what takes more, of raw_exec as well
    }
    job = cluster.job(cluster.name(), command, task=named, group={"Name": GROUP_NAME})
    cluster.register(job)
    return cluster.running(job["ID"])


def log(
    cluster: Cluster, allocation: str, most: int = 10_000, stream: Stream = "stdout"
) -> tuple[Piece, ...]:
    return asked(cluster, lambda _, look_ins: look_ins.log(allocation, stream, most))


def lines(pieces: tuple[Piece, ...]) -> list[bytes | str]:
    return list(take(pieces, None).lines)


def test_usage_is_what_the_process_itself_uses(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    alloc = started(cluster, f"exec {sys.executable} -I -S {script}")

    def usage() -> Usage | None:
        try:
            return asked(cluster, lambda _, look_ins: look_ins.usage(alloc["ID"]))
        except Missing:
            return None

    def settled() -> Usage | None:
        # The first samples may be of a process that has hardly begun, and raw_exec measures every 5 s. Then it is a
        # fifth of a core; the machine may be busy, and then it is less.
        seen = usage()
        return seen if seen and seen.memory_bytes > 48 << 20 and 2 < seen.cpu_percent < 40 else None

    first = cluster.until(usage)
    second = cluster.until(settled)
    assert second.taken_ns > first.taken_ns
    # The interpreter and what it holds.
    assert second.memory_bytes < 80 << 20
    cluster.stop_and_wait(alloc["JobID"])
    third, fourth = usage(), usage()
    # A task that ended shows its last sample or none.
    assert (third is None) == (fourth is None)
    assert third is None or fourth is None or third.taken_ns == fourth.taken_ns


def test_usage_of_what_does_not_exist(cluster: Cluster) -> None:
    with pytest.raises(Missing):
        asked(cluster, lambda _, look_ins: look_ins.usage(NOBODY))


def test_both_streams_are_read_from_their_ends(cluster: Cluster) -> None:
    alloc = started(cluster, "echo one; echo two; echo three >&2; printf half; exec sleep 600")
    cluster.until(lambda: lines(log(cluster, alloc["ID"])) == [b"one", b"two"] or None)
    cluster.until(lambda: lines(log(cluster, alloc["ID"], stream="stderr")) == [b"three"] or None)

    def whole() -> tuple[Piece, ...] | None:
        found = log(cluster, alloc["ID"])
        return found if found[-1].end == len(b"one\ntwo\nhalf") else None

    pieces = cluster.until(whole)
    assert (pieces[0].file, pieces[0].begin) == (0, 0)
    assert b"".join(piece.data for piece in pieces) == b"one\ntwo\nhalf"
    tail = log(cluster, alloc["ID"], most=6)
    assert (tail[0].begin, b"".join(piece.data for piece in tail)) == (6, b"o\nhalf")


def test_a_log_is_followed_without_gap_or_double_while_it_grows(cluster: Cluster) -> None:
    count = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i of a log that grows; sleep 0.005; done"
    alloc = started(cluster, f"{count}; exec sleep 600")
    position = None
    got: list[bytes | str] = []
    deadline = time.monotonic() + 30
    while len(got) < 300 and time.monotonic() < deadline:
        try:
            taken = take(log(cluster, alloc["ID"], most=64 * 1024), position)
        except Missing:
            continue
        position = taken.position
        got += taken.lines
    assert got == [f"line {n} of a log that grows".encode() for n in range(1, 301)]


def test_no_log_before_the_task_was_started(cluster: Cluster) -> None:
    with pytest.raises(Missing):
        log(cluster, NOBODY)


def test_a_restart_keeps_the_allocation_and_its_log_and_counts_as_one(cluster: Cluster) -> None:
    alloc = started(cluster, "echo began; exec sleep 600")
    cluster.until(lambda: lines(log(cluster, alloc["ID"])) == [b"began"] or None)

    async def restart(scheduler: NomadScheduler, _: NomadLookIns) -> None:
        await scheduler.restart_allocation(alloc["ID"])

    async def restarts(scheduler: NomadScheduler, _: NomadLookIns) -> int:
        return (await scheduler.allocation(alloc["ID"])).restarts

    assert asked(cluster, restarts) == 0
    asked(cluster, restart)
    cluster.until(lambda: asked(cluster, restarts) == 1)
    cluster.until(lambda: lines(log(cluster, alloc["ID"])) == [b"began", b"began"] or None)
    cluster.stop_and_wait(alloc["JobID"])
    with pytest.raises(StaleWrite):
        asked(cluster, restart)


def test_a_restart_of_what_does_not_exist(cluster: Cluster) -> None:
    with pytest.raises(Missing):
        asked(cluster, lambda scheduler, _: scheduler.restart_allocation(NOBODY))
