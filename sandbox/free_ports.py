"""Ports that are free now, and an agent's: free when it first starts, the same ones ever after."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections import deque
from pathlib import Path
from random import SystemRandom
from typing import Final

_KEPT: Final = "ports.json"
_EPHEMERAL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Above the ports of simulated hosts and below those that Linux gives to connections.
_FIRST: Final = 31_000
_END: Final = 32_768
_RANGES_FIRST: Final = 10_000
_HUNDRED: Final = 100
_random = SystemRandom()
# What this process named last, until it has had time to be used: file numbers of sockets.
_claimed: deque[int] = deque()
_CLAIMS_KEPT: Final = 64


def kept_ports(folder: Path, address: str, names: tuple[str, ...], **chosen: int | None) -> dict[str, int]:
    """A port on `address` for each of `names`: `chosen` where one is given, else the folder's own of last time.

    An agent that comes back elsewhere is not found again: a Nomad server looks for itself in its Raft data,
    and members of a Consul cluster call each other where they were. A port that somebody else has taken
    meanwhile is replaced all the same, since the agent could not start with it.
    """
    file = folder / _KEPT
    known: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
    ports = {name: known[name] for name in names if name in known and is_free(address, known[name])}
    ports |= {name: port for name, port in chosen.items() if port is not None}
    missing = [name for name in names if name not in ports]
    ports |= dict(zip(missing, free_ports(len(missing), address), strict=True))
    file.write_text(json.dumps(ports))
    return ports


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """Ports that nobody uses now, for TCP and for UDP (gossip needs both), all different.

    None of those from which the system serves outgoing connections: between a look and its use one of
    them is soon some connection's, on a machine that makes thousands a minute. None that another process
    was told here and has not begun to use: sandboxes that start side by side take seconds to do so.
    """
    ports: set[int] = set()
    while len(ports) < count:
        port = _random.randrange(_FIRST, _end())
        if port not in ports and is_free(address, port) and _claim(port):
            ports.add(port)
    return list(ports)


def free_port(address: str = "127.0.0.1") -> int:
    """One of them."""
    return free_ports(1, address)[0]


def free_range(count: int, *addresses: str) -> int:
    """The first of `count` ports in a row that nobody uses now on any of `addresses`: those of simulated hosts.

    Below those of `free_ports`. Every hundred is named to one process at a time.
    """
    while True:
        first = _random.randrange(_RANGES_FIRST, _FIRST - count, _HUNDRED)
        ports = range(first, first + count)
        if all(map(_claim, ports[::_HUNDRED])) and all(
            is_free(at, port) for at in addresses for port in ports
        ):
            return first


def _claim(port: int) -> bool:
    """Whether no other process holds the port's name; this one then does, for its next few dozen ports.

    The name is that of a Unix socket outside the file system: it ends with its process, however that ends.
    Systems without such names do without.
    """
    if sys.platform != "linux":
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as holder:
        try:
            holder.bind(f"\0wahafleet-port-{port}")
        except OSError:
            return False
        _claimed.append(holder.detach())
    while len(_claimed) > _CLAIMS_KEPT:
        os.close(_claimed.popleft())
    return True


def _end() -> int:
    """First port that the system may give to a connection; Linux tells, elsewhere they start higher."""
    try:
        first = int(_EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _END
    return first if first > _FIRST + 500 else _END


def is_free(address: str, port: int) -> bool:
    """Whether an agent could listen there now, for TCP and for UDP."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(type=kind) as probe:
            if kind is socket.SOCK_STREAM:
                # As agents do: connections of an earlier run that still fade out do not count.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True
