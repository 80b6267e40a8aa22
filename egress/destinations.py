"""Where tunnels may lead: a list of hosts and ports. Pure; no name is ever resolved here."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# 127.1, 2130706433 and 0x7f000001 are addresses to some resolvers.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


class Destinations:
    """`hosts`: each stands for itself and all names below it; an address for itself alone."""

    def __init__(self, hosts: Iterable[str], ports: Iterable[int]) -> None:
        listed = [host.strip("[]").strip(".").lower() for host in hosts]
        self._addresses = {address for host in listed if (address := _address(host)) is not None}
        self._names = tuple(host for host in listed if host and _address(host) is None)
        self._ports = frozenset(ports)

    def allows(self, host: str, port: int) -> bool:
        """`host`: lower case, without a final dot; an IPv6 address without brackets."""
        if port not in self._ports:
            return False
        address = _address(host)
        if address is not None:
            return address in self._addresses
        labels = host.split(".")
        if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)) or _NUMBER.fullmatch(labels[-1]):
            return False
        return any(host == name or host.endswith(f".{name}") for name in self._names)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
