"""Loud lines of a log reach the terminal, short and few."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sandbox.up.follow import Follower, short


def line(level: str, message: str, **more: object) -> bytes:
    return json.dumps(
        {"level": level, "message": message, "at": "2026", "component": "daemon", **more}
    ).encode()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (line("warning", "dependency_away", system="nomad"), "warning: dependency_away system=nomad"),
        (line("error", "pass_broke", exception="Traceback\n x"), "error: pass_broke"),
        (line("info", "decided"), None),
        (b"not json", None),
        (b"[1]", None),
        (b"", None),
    ],
)
def test_only_what_is_loud_is_said(given: bytes, told: str | None) -> None:
    assert short(given) == told


def test_a_long_line_is_cut() -> None:
    told = short(line("error", "x", error="y" * 1000)) or ""
    assert len(told) == 160
    assert "\n" not in told


class Terminal:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, name: str, sentence: str) -> None:
        self.lines.append(f"{name} {sentence}")


def test_what_was_there_before_is_old_news_and_halves_of_lines_wait(tmp_path: Path) -> None:
    log, terminal = tmp_path / "daemon.log", Terminal()
    log.write_bytes(line("error", "old") + b"\n")
    follower = Follower("daemon", log, terminal.say)
    whole = line("error", "new")
    with log.open("ab") as out:
        out.write(whole[:10])
    follower.look(0)
    assert terminal.lines == []
    with log.open("ab") as out:
        out.write(whole[10:] + b"\n")
    follower.look(1)
    assert terminal.lines == ["daemon error: new"]


def test_a_flood_is_a_few_lines_and_a_number(tmp_path: Path) -> None:
    log, terminal = tmp_path / "daemon.log", Terminal()
    follower = Follower("daemon", log, terminal.say)
    log.write_bytes(b"".join(line("warning", f"m{n}") + b"\n" for n in range(100)))
    follower.look(0)
    assert len(terminal.lines) == 5
    follower.look(9)
    assert len(terminal.lines) == 5
    follower.look(11)
    assert terminal.lines[5:] == [f"daemon and 95 more, see {log}"]


def test_a_log_that_begins_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    log, terminal = tmp_path / "daemon.log", Terminal()
    log.write_bytes(b"x" * 1000)
    follower = Follower("daemon", log, terminal.say)
    log.write_bytes(line("error", "fresh") + b"\n")
    follower.look(0)
    assert terminal.lines == ["daemon error: fresh"]
