"""Two hosts, two containers and an Internet, as network namespaces of this machine.

net       10.9.0.1   fd09::1   the Internet: everything that is behind the hosts' network
host      10.9.0.2   fd09::2   with waha0 (172.30.0.1, fd30::1), forwarding and masquerading as Docker does
other     10.9.0.3             another host
one, two  172.30.0.11, .12     containers on the bridge of `host`
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

PROBES = Path(__file__).with_name("probes.py")
# What Docker sets up for a bridge network, as far as it matters here.
_NAT = """
table inet docker_like {
    chain post { type nat hook postrouting priority 100; iifname "waha0" oifname "eth0" masquerade; }
}
"""


class Town:
    """`prefix` makes the namespaces' names this test's own."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def inside(self, place: str, *command: str) -> list[str]:
        return ["ip", "netns", "exec", f"{self.prefix}{place}", *command]

    def run(self, place: str, *command: str, text: str | None = None) -> str:
        done = subprocess.run(
            self.inside(place, *command), input=text, capture_output=True, text=True, check=False, timeout=30
        )
        assert done.returncode == 0, f"{place}: {' '.join(command)}: {done.stderr}"
        return done.stdout

    async def reached(self, place: str, *targets: str) -> dict[str, bool]:
        """Which of `targets` (`tcp 10.9.0.1 443`, `udp ...`) answer, asked at once from `place`."""
        process = await asyncio.create_subprocess_exec(
            *self.inside(place, sys.executable, str(PROBES), "reach", *targets), stdout=subprocess.PIPE
        )
        output, _ = await asyncio.wait_for(process.communicate(), 30)
        found: dict[str, bool] = json.loads(output)
        return found

    @asynccontextmanager
    async def serving(self, place: str, *ports: int) -> AsyncIterator[None]:
        """TCP and UDP, both families, on each of `ports`: says back what it is told."""
        async with self.process(place, sys.executable, str(PROBES), "serve", *map(str, ports)) as process:
            assert process.stdout is not None
            assert await asyncio.wait_for(process.stdout.readline(), 20) == b"ready\n"
            yield

    @asynccontextmanager
    async def process(
        self, place: str, *command: str, **more: Any
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        more = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE} | more
        process = await asyncio.create_subprocess_exec(*self.inside(place, *command), **more)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
                try:
                    await asyncio.wait_for(process.wait(), 10)
                except TimeoutError:
                    process.kill()
                    await process.wait()


@contextmanager
def town() -> Iterator[Town]:
    """The namespaces, gone at the end. Skips the test where they may not be made."""
    made = Town(f"wf{os.getpid()}-")
    _skip_where_impossible(made)
    try:
        for place in ("net", "host", "other", "one", "two"):
            _ip("netns", "add", f"{made.prefix}{place}")
            made.run(place, "ip", "link", "set", "lo", "up")
        made.run("net", "ip", "link", "add", "lan", "type", "bridge")
        _up(made, "net", "lan", "10.9.0.1/24", "fd09::1/64")
        _cable(made, "host", ("10.9.0.2/24", "fd09::2/64"), "net", "lan")
        _cable(made, "other", ("10.9.0.3/24", "fd09::3/64"), "net", "lan")
        made.run("host", "ip", "link", "add", "waha0", "type", "bridge")
        _up(made, "host", "waha0", "172.30.0.1/16", "fd30::1/64")
        for place, number in (("one", 11), ("two", 12)):
            _cable(made, place, (f"172.30.0.{number}/16", f"fd30::{number}/64"), "host", "waha0")
            made.run(place, "ip", "route", "add", "default", "via", "172.30.0.1")
            made.run(place, "ip", "-6", "route", "add", "default", "via", "fd30::1")
        for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            made.run("host", "sysctl", "-qw", f"{name}=1")
        made.run("host", "nft", "-f", "-", text=_NAT)
        # Who wants to reach a container, or to trick a host into serving strangers.
        for place in ("net", "other"):
            made.run(place, "ip", "route", "add", "172.30.0.0/16", "via", "10.9.0.2")
        yield made
    finally:
        for place in ("net", "host", "other", "one", "two"):
            subprocess.run(["ip", "netns", "del", f"{made.prefix}{place}"], capture_output=True, check=False)


def _skip_where_impossible(made: Town) -> None:
    missing = [name for name in ("ip", "nft", "sysctl") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} on PATH: the firewall of hosts was not tried")
    if os.geteuid() != 0:
        pytest.skip("network namespaces are made by root: the firewall of hosts was not tried")
    name = f"{made.prefix}try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(
            f"no network namespaces here ({tried.stderr.strip()}): the firewall of hosts was not tried"
        )
    able = subprocess.run(
        ["ip", "netns", "exec", name, "nft", "list", "ruleset"], capture_output=True, text=True, check=False
    )
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    if able.returncode:
        pytest.skip(f"nft does not work here ({able.stderr.strip()}): the firewall of hosts was not tried")
    if not Path("/proc/sys/net/bridge").is_dir():
        pytest.skip("br_netfilter is not loaded: the firewall of hosts was not tried")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _cable(made: Town, place: str, addresses: tuple[str, str], far: str, bridge: str) -> None:
    """`eth0` of `place`, plugged into a bridge of `far`."""
    port = f"to-{place}"
    made.run(
        far,
        *(
            "ip",
            "link",
            "add",
            port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            f"{made.prefix}{place}",
        ),
    )
    made.run(far, "ip", "link", "set", port, "master", bridge, "up")
    _up(made, place, "eth0", *addresses)


def _up(made: Town, place: str, device: str, address: str, address6: str) -> None:
    made.run(place, "ip", "address", "add", address, "dev", device)
    made.run(place, "ip", "-6", "address", "add", address6, "dev", device, "nodad")
    made.run(place, "ip", "link", "set", device, "up")
