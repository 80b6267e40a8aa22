"""The journal finds two that speak at once, and only those."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from sandbox.waha import journal
from sandbox.waha.journal_file import JournalFile

from .conftest import World


def write(folder: Path, process: str, *events: tuple[float, str, bool], **fields: Any) -> None:
    """A journal file of a process that ended at its last entry."""
    path = folder / "journal" / f"{process}.jsonl"
    path.parent.mkdir(exist_ok=True)
    base = {
        "session": "chip_1",
        "database": "waha_u1_chip_1",
        "namespace": "u1",
        "allocation": process,
        "pid": 1,
    }
    path.write_text(
        "".join(
            json.dumps(base | {"at": at, "event": event, "paired": paired} | fields) + "\n"
            for at, event, paired in events
        )
    )
    os.utime(path, (events[-1][0], events[-1][0]))


def test_one_after_the_other_is_no_overlap(tmp_path: Path) -> None:
    write(tmp_path, "a", (10, "start", True), (11, "working", True), (20, "end", False))
    write(tmp_path, "b", (20, "start", True), (21, "working", True), (30, "end", False))
    assert journal.overlaps(tmp_path) == []


def test_two_at_once_are_found_with_their_length(tmp_path: Path) -> None:
    write(tmp_path, "a", (10, "start", True), (20, "end", False))
    write(tmp_path, "b", (17, "start", False), (18, "working", True), (30, "end", False))
    (overlap,) = journal.overlaps(tmp_path)
    assert (overlap.first.process, overlap.second.process) == ("a", "b")
    assert overlap.seconds == pytest.approx(2)


def test_unpaired_sessions_count_only_when_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "a", (10, "start", False), (20, "end", False))
    write(tmp_path, "b", (15, "start", False), (30, "end", False))
    assert journal.overlaps(tmp_path) == []
    assert len(journal.overlaps(tmp_path, speaking=False)) == 1


def test_different_chips_of_a_user_overlap_only_by_user(tmp_path: Path) -> None:
    write(tmp_path, "a", (10, "start", True), (20, "end", False))
    write(
        tmp_path,
        "b",
        (15, "start", True),
        (30, "end", False),
        session="chip_2",
        database="waha_u1_chip_2",
    )
    assert journal.overlaps(tmp_path) == []
    assert len(journal.overlaps(tmp_path, by="user")) == 1


def test_a_long_interval_meets_every_later_one(tmp_path: Path) -> None:
    write(tmp_path, "a", (10, "start", True), (100, "end", False))
    write(tmp_path, "b", (20, "start", True), (30, "end", False))
    write(tmp_path, "c", (40, "start", True), (50, "end", False))
    assert [o.second.process for o in journal.overlaps(tmp_path)] == ["b", "c"]


def test_a_killed_process_spoke_until_its_last_sign_of_life(tmp_path: Path) -> None:
    write(tmp_path, "a", (10, "start", True))
    os.utime(tmp_path / "journal" / "a.jsonl", (25, 25))
    (interval,) = journal.intervals(tmp_path)
    assert (interval.until, interval.open) == (25, False)


def test_a_living_process_speaks_until_now(tmp_path: Path) -> None:
    writer = JournalFile(str(tmp_path), "u1", "alloc-1")
    writer.start("chip_1", paired=True)
    (interval,) = journal.intervals(tmp_path)
    assert interval.open
    assert interval.until == pytest.approx(time.time(), abs=5)
    assert interval.allocation == "alloc-1"
    writer.close()
    assert not journal.intervals(tmp_path)[0].open


def test_a_beat_is_a_sign_of_life(tmp_path: Path) -> None:
    writer = JournalFile(str(tmp_path), "u1", None)
    writer.start("chip_1", paired=True)
    (path,) = (tmp_path / "journal").iterdir()
    os.utime(path, (1, 1))
    writer.beat()
    assert path.stat().st_mtime > 1
    os.utime(path, (1, 1))
    writer.end("chip_1")
    os.utime(path, (1, 1))
    writer.beat()
    assert path.stat().st_mtime == 1, "nothing runs, so there is nothing to tell"
    writer.close()


def test_a_session_tells_when_it_starts_works_and_ends(world: World) -> None:
    world.paired()
    world.running().unlink()
    world.run(world.simulator.restart("chip_1"))
    world.run(world.simulator.stop("chip_1"))
    entries = journal.read(world.folder)
    assert [(entry.event, entry.paired) for entry in entries] == [
        ("start", False),
        ("working", True),
        ("end", False),
        ("start", False),
        ("end", False),
    ]
    assert [interval.speaking for interval in journal.intervals(world.folder)] == [False, True, False]


def test_two_containers_on_one_store_are_caught(tmp_path: Path) -> None:
    first = World(tmp_path, NOMAD_ALLOC_ID="alloc-1")
    first.paired()
    second = World(tmp_path, NOMAD_ALLOC_ID="alloc-2")
    second.run(second.simulator.boot())
    second.timers.advance(1)
    time.sleep(0.002)
    (overlap, *_) = journal.overlaps(tmp_path)
    assert {overlap.first.allocation, overlap.second.allocation} == {"alloc-1", "alloc-2"}
