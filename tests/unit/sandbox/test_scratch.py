"""Folders for servers that nobody keeps."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox import scratch

NAME = f"left-{os.getuid()}-"


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scratch, "_MEMORY", tmp_path / "memory")
    monkeypatch.setattr(scratch, "_DISK", tmp_path / "disk")
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


Leave = Callable[[str, float, float | None], Path]


@pytest.fixture
def leave(base: Path) -> Leave:
    """Leave a folder of a given age (in seconds), with a lock of that age or without one."""

    def make(name: str, age_s: float, lock_age_s: float | None) -> Path:
        folder = base / name
        folder.mkdir()
        if lock_age_s is not None:
            (folder / "owner.lock").touch()
            os.utime(folder / "owner.lock", (time.time() - lock_age_s,) * 2)
        os.utime(folder, (time.time() - age_s,) * 2)
        return folder

    return make


def test_others_pass_through_and_cannot_list(base: Path) -> None:
    folder = scratch.scratch_folder("left-")
    assert folder.parent == base
    assert folder.stat().st_mode & 0o777 == 0o711


def test_leftovers_go_and_what_is_in_use_stays(leave: Leave) -> None:
    killed = leave(f"{NAME}killed", 7200, 7200)
    fresh = leave(f"{NAME}fresh", 60, 60)
    no_lock = leave(f"{NAME}nolock", 7200, None)
    old = leave(f"{NAME}old", 90_000, None)
    foreign = leave("other-0-x", 90_000, None)
    used = leave(f"{NAME}used", 7200, 7200)
    with (used / "owner.lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        scratch.scratch_folder("left-")
    there = [path.exists() for path in (killed, fresh, no_lock, old, foreign, used)]
    assert there == [False, True, True, False, True, True]


def test_memory_is_used_when_there_is_plenty(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = base.parent / "memory"
    memory.mkdir()
    monkeypatch.setattr(scratch, "_MEMORY_NEEDED", 1)
    assert scratch.scratch_folder("left-").parent == memory
    monkeypatch.setattr(scratch, "_MEMORY_NEEDED", 2**80)
    assert scratch.scratch_folder("left-").parent == base
