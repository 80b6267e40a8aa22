"""nomad/host/waha-egress.nft in network namespaces: what a container reaches without it, and what with it."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cli import doctor
from cli.doctor import State
from core.domain.chip_credentials import node_key
from tests.contract.host.namespaces import PROBES, Town, town
from tests.integration.egress.conftest import KEY, credential
from tests.unit.egress.fakes import NODE

HOST = Path(__file__).parents[3] / "nomad" / "host"
ROOT = Path(__file__).parents[3]
GUARD = "172.30.0.1"
API, DATABASE, SOCKS = 8000, 5432, 1080

ALLOWED = ("tcp 10.9.0.1 8000", "tcp 10.9.0.1 5432")
FORBIDDEN = (
    "tcp 10.9.0.1 443",  # straight to the Internet
    "udp 10.9.0.1 443",
    "tcp 10.9.0.1 1080",  # the upstream itself
    "tcp 10.9.0.1 53",
    "udp 10.9.0.1 53",
    "udp 10.9.0.1 5432",  # the database's port, but not its protocol
    "tcp fd09::1 443",
    "udp fd09::1 53",
    "tcp fd09::1 5432",
    "tcp 10.9.0.3 3128",  # another host's guard
    "tcp fd09::3 3128",
    "tcp 10.9.0.3 5432",  # the database's port on a host that is none
    "tcp 172.30.0.12 3000",  # another container
    "udp 172.30.0.12 3000",
    "tcp fd30::12 3000",
    "tcp 172.30.0.1 22",  # this host's other ports, by either address
    "udp 172.30.0.1 53",
    "tcp 172.30.0.1 53",
    "tcp 10.9.0.2 22",
    "tcp fd30::1 22",
    "tcp 10.9.0.2 3129",
)


@pytest.fixture(scope="module")
def built() -> Iterator[Town]:
    with town() as made:
        yield made


@pytest.fixture
def place(built: Town) -> Iterator[Town]:
    """Without the file, and without what another test left of connections."""
    yield built
    subprocess.run(
        built.inside("host", "nft", "delete", "table", "inet", "waha_egress"),
        capture_output=True,
        check=False,
    )


def load(place: Town) -> None:
    """The file as it is shipped, with this site's definitions, and its settings of the kernel."""
    text = (HOST / "waha-egress.nft").read_text()
    text, changed = re.subn(
        r"^define services = .*$",
        f"define services = {{ 10.9.0.1 . {API}, 10.9.0.1 . {DATABASE} }}",
        text,
        flags=re.MULTILINE,
    )
    assert changed == 1
    for line in (HOST / "waha-egress.sysctl").read_text().splitlines():
        if not line.startswith("#"):
            place.run("host", "sysctl", "-qw", line.replace(" ", ""))
    place.run("host", "nft", "-f", "-", text=text)


def rules(place: Town) -> str:
    """What is loaded, without handles and counters."""
    return re.sub(
        r"packets \d+ bytes \d+", "", place.run("host", "nft", "list", "table", "inet", "waha_egress")
    )


@asynccontextmanager
async def internet(place: Town) -> AsyncIterator[None]:
    command = (sys.executable, "-m", "tests.contract.host.internet", "10.9.0.1", str(API), str(SOCKS))
    async with place.process("net", *command, cwd=ROOT) as process:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            while (line := await process.stdout.readline()) != b"ready\n":
                assert line, "it ended before it served"
        yield


@asynccontextmanager
async def guard(
    place: Town, log: Path, host: str = "host", listen: str = f"{GUARD}:3128"
) -> AsyncIterator[asyncio.subprocess.Process]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("WAHAFLEET_")} | {
        "WAHAFLEET_GUARD_LISTEN": listen,
        "WAHAFLEET_GUARD_STATUS_LISTEN": "127.0.0.1:0",
        "WAHAFLEET_GUARD_NODE_ID": NODE,
        "WAHAFLEET_GUARD_KEY": KEY.hex(),
        "WAHAFLEET_GUARD_API_URL": f"http://10.9.0.1:{API}",
    }
    assert node_key(b"the cluster's secret", NODE) == KEY
    with log.open("wb") as output:
        command = (sys.executable, "-m", "cli.main", "egress")
        async with place.process(host, *command, cwd=ROOT, env=env, stdout=output, stderr=output) as process:
            async with asyncio.timeout(30):
                while "guard_started" not in _text(log):
                    assert process.returncode is None, _text(log)
                    await asyncio.sleep(0.02)
            yield process


def _text(log: Path) -> str:
    return log.read_text()


def tunnel() -> tuple[str, ...]:
    """The command of a chip: a line for each line it is given, or the refusal's first one."""
    return (sys.executable, str(PROBES), "tunnel", GUARD, "3128", *credential())


async def tunnelled(place: Town, container: str = "one") -> str:
    """What comes back through the local guard for `hello`."""
    return (await asyncio.to_thread(place.run, container, *tunnel(), text="hello\n")).strip()


@asynccontextmanager
async def everything(place: Town) -> AsyncIterator[None]:
    """Somebody answers at every address of FORBIDDEN and ALLOWED."""
    async with (
        place.serving("net", 443, 53, DATABASE, API, SOCKS),
        place.serving("host", 22, 53, 3129),
        place.serving("other", 3128, DATABASE),
        place.serving("one", 3000),
        place.serving("two", 3000),
    ):
        yield


async def test_a_container_reaches_its_guard_hook_and_database_and_nothing_else(place: Town) -> None:
    async with everything(place):
        before = await place.reached("one", *ALLOWED, *FORBIDDEN)
        assert [target for target, answered in before.items() if not answered] == []
        load(place)
        after = await place.reached("one", *ALLOWED, *FORBIDDEN)
        assert {target: answered for target, answered in after.items() if answered} == dict.fromkeys(
            ALLOWED, True
        )
        # Whoever connects to a published port is answered, as before.
        for caller in ("net", "host"):
            answered = await place.reached(caller, "tcp 172.30.0.11 3000", "tcp 172.30.0.12 3000")
            assert all(answered.values()), caller


async def test_a_connection_from_before_is_cut_as_well(place: Town) -> None:
    async with everything(place):
        for address in ("10.9.0.1", "172.30.0.12"):
            port = "443" if address == "10.9.0.1" else "3000"
            command = (sys.executable, str(PROBES), "hold", address, port)
            async with place.process("one", *command) as held:
                assert held.stdin is not None
                assert held.stdout is not None

                async def said(held: asyncio.subprocess.Process = held) -> bytes:
                    held.stdin.write(b"hello\n")  # type: ignore[union-attr]
                    return await asyncio.wait_for(held.stdout.readline(), 10)  # type: ignore[union-attr]

                assert await held.stdout.readline() == b"ready\n"
                assert await said() == b"same\n"
                load(place)
                assert await said() == b"silence\n"
            place.run("host", "nft", "delete", "table", "inet", "waha_egress")


async def test_through_the_local_guard_it_works_and_without_it_nothing_does(
    place: Town, tmp_path: Path
) -> None:
    load(place)
    async with internet(place), place.serving("other", 3128), place.serving("two", 3000):
        # Before the guard starts, there is no way out.
        assert await tunnelled(place) == "ConnectionRefusedError"
        assert not any((await place.reached("one", "tcp 10.9.0.1 1080", "tcp 10.9.0.3 3128")).values())
        async with guard(place, tmp_path / "guard.log") as first:
            assert await tunnelled(place) == "hello"
            # It is this host's alone, whoever has a route to its address.
            assert not any(
                (
                    await place.reached("other", "tcp 172.30.0.1 3128")
                    | await place.reached("net", "tcp 172.30.0.1 3128")
                ).values()
            )
            first.kill()
            await first.wait()
            assert await tunnelled(place) == "ConnectionRefusedError"
            assert not any((await place.reached("one", "tcp 10.9.0.1 1080", "tcp 10.9.0.3 3128")).values())
        async with guard(place, tmp_path / "again.log"):
            assert await tunnelled(place) == "hello"


async def test_another_hosts_guard_is_out_of_reach_even_with_a_valid_credential(
    place: Town, tmp_path: Path
) -> None:
    load(place)
    async with internet(place), guard(place, tmp_path / "other.log", "other", "0.0.0.0:3128"):
        assert (await place.reached("net", "tcp 10.9.0.3 3128"))["tcp 10.9.0.3 3128"]
        assert not (await place.reached("one", "tcp 10.9.0.3 3128"))["tcp 10.9.0.3 3128"]


async def test_loading_it_again_changes_nothing_and_cuts_no_tunnel(place: Town, tmp_path: Path) -> None:
    load(place)
    once = rules(place)
    for listen, state in ((f"{GUARD}:3128", State.OK), (f"{GUARD}:3129", State.WRONG)):
        assert doctor.firewall(lambda command: (0, place.run("host", *command)), listen).state is state
    async with internet(place), guard(place, tmp_path / "guard.log"), place.process("one", *tunnel()) as held:
        assert held.stdin is not None
        assert held.stdout is not None
        for _ in range(4):
            load(place)
            held.stdin.write(b"hello\n")
            assert await asyncio.wait_for(held.stdout.readline(), 10) == b"hello\n"
    assert rules(place) == once
    assert place.run("host", "nft", "list", "tables").count("waha_egress") == 1


async def test_it_is_in_force_before_the_bridge_is_made(place: Town) -> None:
    """By name: a bridge that Docker makes later is covered from its first packet."""
    load(place)
    async with everything(place):
        for name in ("to-one", "to-two"):
            place.run("host", "ip", "link", "set", name, "nomaster")
        place.run("host", "ip", "link", "del", "waha0")
        place.run("host", "ip", "link", "add", "waha0", "type", "bridge")
        place.run("host", "ip", "address", "add", "172.30.0.1/16", "dev", "waha0")
        place.run("host", "ip", "-6", "address", "add", "fd30::1/64", "dev", "waha0", "nodad")
        place.run("host", "ip", "link", "set", "waha0", "up")
        for name in ("to-one", "to-two"):
            place.run("host", "ip", "link", "set", name, "master", "waha0")
        after = await place.reached("one", *ALLOWED, *FORBIDDEN)
        assert [target for target, answered in after.items() if answered] == list(ALLOWED)
