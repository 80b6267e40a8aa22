"""The embedded Valkey."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from sandbox.tether import is_alive
from sandbox.valkey import EmbeddedValkey, ValkeyError


def test_it_answers_and_forgets(tmp_path: Path) -> None:
    for _ in range(2):
        with EmbeddedValkey.start(tmp_path) as server, redis.Redis.from_url(server.url()) as client:
            assert client.get("k") is None
            client.set("k", "v")
            assert client.get("k") == b"v"


def test_a_given_port_is_used(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with EmbeddedValkey.start(tmp_path, port=port) as server:
        assert server.url(3) == f"redis://127.0.0.1:{port}/3"


def test_a_busy_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(ValkeyError, match=f"port {port} is busy; free it or name another"):
            EmbeddedValkey.start(tmp_path, port=port)


def test_it_ends_with_an_owner_that_was_killed(tmp_path: Path) -> None:
    script = (
        "import os, sys, signal; from pathlib import Path; from sandbox.valkey import EmbeddedValkey\n"
        "server = EmbeddedValkey.start(Path(sys.argv[1]))\n"
        "print(server.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL
    server_pid = int(done.stdout)
    deadline = time.monotonic() + 20
    while is_alive(server_pid):
        assert time.monotonic() < deadline, "the server outlived its owner"
        time.sleep(0.02)
    assert os.getpid() != server_pid


def test_stop_is_safe_to_repeat(tmp_path: Path) -> None:
    server = EmbeddedValkey.start(tmp_path)
    server.stop()
    server.stop()
    assert server.exit_code() == 0
