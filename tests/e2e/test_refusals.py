"""What `wahafleet up` refuses, and how: one sentence with the next thing to try."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.e2e.running import WAHAFLEET, Up, scratch

pytestmark = pytest.mark.xdist_group("sandbox")


def refused(*options: str, env: dict[str, str] | None = None) -> str:
    """The sentence with which `wahafleet up` refuses `options`."""
    done = subprocess.run(
        [WAHAFLEET, "up", *options], capture_output=True, text=True, timeout=60, env=env or dict(os.environ)
    )
    assert done.returncode in (1, 2), done.stdout + done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("wahafleet: ")
    assert line.endswith(".")
    return line


def test_a_busy_port_names_the_option() -> None:
    with scratch() as folder, socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        assert "--port" in (said := refused("--port", port, "--data", str(folder / "data")))
        assert port in said


def test_a_second_one_on_the_same_folder_is_told_who_has_it(sandbox: Up) -> None:
    said = refused("--port", str(sandbox.port), "--data", str(sandbox.data))
    assert f"process {sandbox.process.pid}, {sandbox.url}" in said
    assert "--data" in said
    assert sandbox.process.poll() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only PostgreSQL started by root runs as somebody else")
def test_a_folder_that_others_cannot_enter_is_refused_and_not_changed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    said = refused("--data", str(closed / "data"))
    assert "--data" in said
    assert list(closed.iterdir()) == []
    assert closed.stat().st_mode & 0o777 == 0o700


def test_a_real_agent_that_is_not_there(tmp_path: Path) -> None:
    env = {**os.environ, "PATH": str(tmp_path)}
    assert "--nomad double" in refused("--nomad", "real", env=env)
    assert "--consul double" in refused("--consul", "real", env=env)


def test_an_address_that_is_not_ours() -> None:
    with scratch() as folder:
        assert "--host" in refused("--host", "203.0.113.1", "--data", str(folder / "data"))


def test_settings_that_do_not_fit_are_one_sentence(sandbox: Up) -> None:
    done = sandbox.run("api", "--port", "1")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
