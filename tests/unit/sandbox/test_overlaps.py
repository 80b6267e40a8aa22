"""What ran twice is found in the journal and in what Nomad lists, to the second."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import overlaps

FIRST, SECOND = "a" * 36, "b" * 36


def journal(folder: Path, allocation: str, *lines: tuple[float, str, str], namespace: str = "u1") -> None:
    """What one process wrote: (at, event, session)."""
    (folder / "journal").mkdir(exist_ok=True)
    file = folder / "journal" / f"{namespace}.{allocation}.jsonl"
    file.write_text(
        "".join(
            json.dumps(
                {
                    "at": at,
                    "event": event,
                    "session": session,
                    "database": f"waha_{namespace}_{session}",
                    "namespace": namespace,
                    "allocation": allocation,
                    "pid": 1,
                    "paired": True,
                }
            )
            + "\n"
            for at, event, session in lines
        )
    )
    # A process that said no end was alive when it last touched its file.
    os.utime(file, (lines[-1][0], lines[-1][0]))


def test_one_session_after_the_other_is_no_overlap(tmp_path: Path) -> None:
    journal(tmp_path, FIRST, (100, "start", "chip"), (110, "end", "chip"))
    journal(tmp_path, SECOND, (110, "start", "chip"), (120, "end", "chip"))
    assert overlaps.of_sessions(tmp_path) == []


def test_any_two_sessions_of_a_user_in_two_processes_overlap(tmp_path: Path) -> None:
    journal(tmp_path, FIRST, (100, "start", "one"), (110, "end", "one"))
    journal(tmp_path, SECOND, (107.5, "start", "two"), (120, "end", "two"))
    journal(tmp_path, "c" * 36, (100, "start", "one"), (120, "end", "one"), namespace="u2")
    (found,) = overlaps.of_sessions(tmp_path)
    assert (found.first, found.second, found.began, found.seconds) == (FIRST, SECOND, 107.5, 2.5)
    assert str(found) == f"two: {FIRST[:8]} and {SECOND[:8]} for 2.50 s"
    assert overlaps.of_sessions(tmp_path, since=110) == []
    assert overlaps.of_sessions(tmp_path, until=107) == []


def test_the_start_of_a_session_and_its_work_are_one_overlap(tmp_path: Path) -> None:
    journal(tmp_path, FIRST, (100, "start", "one"), (130, "end", "one"))
    journal(tmp_path, SECOND, (110, "start", "one"), (110.3, "working", "one"), (120, "end", "one"))
    assert [one.seconds for one in overlaps.of_sessions(tmp_path)] == [10]


def test_a_process_lives_as_long_as_it_holds_its_journal(tmp_path: Path) -> None:
    journal(tmp_path, FIRST, (100, "start", "one"))
    journal(tmp_path, SECOND, (100, "start", "one"))
    assert overlaps.processes(tmp_path) == []
    with (tmp_path / "journal" / f"u1.{SECOND}.jsonl").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert overlaps.processes(tmp_path) == [f"u1.{SECOND}"]


def test_the_command_prints_what_it_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal(tmp_path, FIRST, (100, "start", "one"), (110, "end", "one"))
    journal(tmp_path, SECOND, (107.5, "start", "one"), (120, "end", "one"))
    assert overlaps.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("1 overlap(s), 2.50 s\n")
    assert overlaps.main([str(tmp_path / "none")]) == 2


def task(allocation: str, started: str | None, finished: str | None) -> dict[str, Any]:
    zero = "0001-01-01T00:00:00Z"
    return {
        "ID": allocation,
        "TaskStates": {"waha_plus": {"StartedAt": started or zero, "FinishedAt": finished or zero}},
    }


def test_tasks_overlap_until_the_client_reported_an_end() -> None:
    listed = [
        task(FIRST, "1970-01-01T00:01:40.123456789Z", "1970-01-01T00:01:50Z"),
        task(SECOND, "1970-01-01T00:01:48.5Z", None),
        task("c" * 36, None, None),
        {"ID": "d" * 36, "TaskStates": None},
    ]
    (found,) = overlaps.of_tasks(listed, now=200)
    assert (found.first, found.second, found.seconds, found.open) == (FIRST, SECOND, 1.5, False)
    assert overlaps.of_tasks(listed, now=200, since=110) == []
    listed[0] = task(FIRST, "1970-01-01T00:01:40Z", None)
    (found,) = overlaps.of_tasks(listed, now=200)
    assert (found.seconds, found.open) == (91.5, True)


def test_a_task_that_was_started_again_runs_although_it_ended_once() -> None:
    listed = [
        task(FIRST, "1970-01-01T00:01:40Z", "1970-01-01T00:01:30Z"),
        task(SECOND, "1970-01-01T00:02:00Z", "1970-01-01T00:02:10Z"),
    ]
    (found,) = overlaps.of_tasks(listed, now=200)
    assert found.seconds == 10
