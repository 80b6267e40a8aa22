"""The guard through real SOCKS5 servers with authentication, where they are on PATH."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from core.domain.egress_errors import EgressError
from core.domain.guard_wire import Upstream
from tests.integration.egress.conftest import World, world
from tests.integration.egress.doubles import free_port
from tests.unit.egress.fakes import OTHER

MICROSOCKS = shutil.which("microsocks")
DANTE = shutil.which("danted") or shutil.which("sockd")
DANTE_TAKES_LOGINS = os.geteuid() == 0 and all(map(shutil.which, ("unshare", "openssl")))
# A name that real servers resolve by the machine's own file of hosts.
HOST, LOGIN, PASSWORD = "localhost", "login", "hunter2"


@contextmanager
def process(*command: str) -> Iterator[None]:
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        running.terminate()
        try:
            running.wait(5)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        assert running.stdout is not None
        running.stdout.close()


@contextmanager
def microsocks(_: Path) -> Iterator[int]:
    port = free_port()
    assert MICROSOCKS is not None
    with process(MICROSOCKS, "-i", "127.0.0.1", "-p", str(port), "-u", LOGIN, "-P", PASSWORD):
        yield port


@contextmanager
def dante(folder: Path) -> Iterator[int]:
    """Its logins are the system's users. Root's tests show it a list of them that has ours, in a view of its own."""
    port = free_port()
    assert DANTE is not None
    config = folder / "danted.conf"
    config.write_text(
        f"""
logoutput: {folder}/danted.log
internal: 127.0.0.1 port = {port}
external: lo
clientmethod: none
socksmethod: username
user.privileged: root
user.unprivileged: nobody
client pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}
socks pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}
"""
    )
    with process(*_with_login(folder), DANTE, "-f", str(config)):
        yield port


def _with_login(folder: Path) -> tuple[str, ...]:
    """What a command is begun with so that LOGIN may log in where it runs, and nowhere else on this machine."""
    if not DANTE_TAKES_LOGINS:
        return ()
    proof = subprocess.run(
        ["openssl", "passwd", "-6", PASSWORD], capture_output=True, text=True, check=True
    ).stdout.strip()
    lists = {
        "passwd": f"{LOGIN}:x:65533:65533::/nonexistent:/bin/sh",
        "shadow": f"{LOGIN}:{proof}:20000::::::",
    }
    mounts = []
    for name, line in lists.items():
        own = folder / name
        own.write_text(f"{Path('/etc', name).read_text().rstrip()}\n{line}\n")
        own.chmod(0o644)
        mounts.append(f"mount --bind {own} /etc/{name}")
    return (
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        f'{" && ".join(mounts)} && exec "$@"',
        "sh",
    )


Server = Callable[[Path], AbstractContextManager[int]]
SERVERS = [
    pytest.param(
        microsocks,
        marks=pytest.mark.skipif(MICROSOCKS is None, reason="no `microsocks` on PATH"),
        id="microsocks",
    ),
    pytest.param(dante, marks=pytest.mark.skipif(DANTE is None, reason="no `danted` on PATH"), id="dante"),
]


LOGINS = [
    SERVERS[0],
    pytest.param(
        dante,
        marks=pytest.mark.skipif(
            DANTE is None or not DANTE_TAKES_LOGINS, reason="no `danted`, or nobody who may give it a login"
        ),
        id="dante",
    ),
]


@asynccontextmanager
async def through(server: Server, folder: Path) -> AsyncIterator[tuple[World, Upstream]]:
    async with world(destinations=(HOST,), ports=tuple(range(1024, 65536))) as w:
        with server(folder) as port:
            await _answers(port)
            made = Upstream("socks5", "127.0.0.1", port, LOGIN, PASSWORD, "generic")
            w.routed(made)
            yield w, made


async def _answers(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("server", LOGINS)
async def test_bytes_pass_both_ways_and_are_counted(server: Server, tmp_path: Path) -> None:
    async with through(server, tmp_path) as (w, _):
        sent = bytes(range(256)) * 4000
        chips = [await w.knock(f"{HOST}:{w.echo_port}") for _ in range(5)]
        assert [chip.status for chip in chips] == [200] * 5
        for chip in chips:
            assert await chip.said(b"hello") == b"hello"
        assert await chips[0].said(sent) == sent
        await w.guard.meter.flush(w.api)
        (row,) = w.api.batches[-1].rows
        assert (row.bytes_in, row.bytes_out, row.tunnels) == (len(sent) + 25, len(sent) + 25, 5)


@pytest.mark.parametrize("server", SERVERS)
async def test_a_wrong_password_has_its_reason(server: Server, tmp_path: Path) -> None:
    async with through(server, tmp_path) as (w, made):
        w.routed(Upstream(made.scheme, made.host, made.port, "nobody-here", "wrong", made.provider))
        chip = await w.knock(f"{HOST}:{w.echo_port}")
        assert chip.reason == EgressError.PROXY_AUTH


@pytest.mark.skipif(MICROSOCKS is None, reason="no `microsocks` on PATH")
async def test_a_destination_that_nobody_serves_and_a_server_that_died(tmp_path: Path) -> None:
    async with through(microsocks, tmp_path) as (w, _):
        chip = await w.knock(f"{HOST}:{free_port()}")
        assert chip.reason == EgressError.PROXY_HOST_UNREACHABLE
        w.routed(Upstream("socks5", "127.0.0.1", free_port(), LOGIN, PASSWORD, "generic"), OTHER, grant=2)
        chip = await w.knock(f"{HOST}:{w.echo_port}", allocation_id=OTHER)
        assert chip.reason == EgressError.PROXY_UNREACHABLE
