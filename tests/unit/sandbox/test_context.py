"""How a verb finds the wahafleet that runs here."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest

from sandbox.up import context
from sandbox.up.context import Context
from sandbox.up.machine import process_started

MINE = process_started(os.getpid()) or ""


def make(
    api: str, *, data: str = "/d", started_at: str = "2026-01-01T00:00:00+00:00", alive: bool = True
) -> Context:
    return Context(
        api=api,
        data=data,
        operator_token="token",
        pid=os.getpid(),
        pid_started=MINE if alive else "1",
        started_at=started_at,
    )


def test_a_context_is_found_by_its_address(tmp_path: Path) -> None:
    one, two = make("http://127.0.0.1:8000", data="/1"), make("http://127.0.0.1:8001", data="/2")
    for each in (one, two):
        context.write(each, tmp_path)
    assert context.find("http://127.0.0.1:8000", tmp_path) == one
    assert context.find("http://localhost:8001/", tmp_path) == two
    assert context.find("127.0.0.1:8001", tmp_path) == two
    assert context.find("http://10.0.0.1:8001", tmp_path) is None


def test_without_an_address_the_newest_that_lives_counts(tmp_path: Path) -> None:
    old = make("http://127.0.0.1:1", data="/1", started_at="2026-01-01T00:00:00+00:00")
    new = make("http://127.0.0.1:2", data="/2", started_at="2026-01-02T00:00:00+00:00")
    dead = make("http://127.0.0.1:3", data="/3", started_at="2026-01-03T00:00:00+00:00", alive=False)
    for each in (new, old, dead):
        context.write(each, tmp_path)
    assert context.find(None, tmp_path) == new
    assert context.find("http://127.0.0.1:3", tmp_path) is None


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    file = context.write(make("http://127.0.0.1:1"), tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_contexts_of_processes_that_are_gone_are_removed(tmp_path: Path) -> None:
    dead = context.write(make("http://127.0.0.1:1", data="/1", alive=False), tmp_path)
    context.write(make("http://127.0.0.1:2", data="/2"), tmp_path)
    assert not dead.exists()


def test_a_file_that_is_no_context_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "context-x.json").write_text("{")
    (tmp_path / "context-y.json").write_text('{"api": 3}')
    assert context.find(None, tmp_path) is None


def test_the_token_is_in_no_repr() -> None:
    assert "token" not in repr(make("http://127.0.0.1:1"))


def test_a_file_is_plain_json(tmp_path: Path) -> None:
    kept = msgspec.json.decode(context.write(make("http://127.0.0.1:1"), tmp_path).read_bytes())
    assert {"api", "data", "operator_token", "pid", "started_at"} <= kept.keys()


@pytest.mark.parametrize(
    ("env", "folder"),
    [
        ({"XDG_STATE_HOME": "/state"}, Path("/state/wahafleet")),
        ({"XDG_STATE_HOME": "relative"}, Path.home() / ".local/state/wahafleet"),
        ({}, Path.home() / ".local/state/wahafleet"),
    ],
)
def test_the_state_folder(env: dict[str, str], folder: Path) -> None:
    assert context.state_folder(env) == folder
