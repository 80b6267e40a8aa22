"""Host ports: which are taken on a node, and the draw of a dynamic one (network index of Nomad 1.10.5)."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from sandbox.nomad_double.model import Allocation, Json, Node

MAX_DRAWS = 20


class PortsExhausted(Exception):
    """No assignment is possible; the text is the reason that Nomad shows in `DimensionExhausted`."""


class UsedPorts:
    """Ports in use on one node, per host address, counted from allocations that are not client-terminal."""

    def __init__(self, node: Node, allocs: Iterable[Allocation]) -> None:
        self.node = node
        self.taken: dict[str, set[int]] = {node.address: set(node.reserved_ports)}
        self.collision = False
        for alloc in allocs:
            if alloc.client_terminal:
                continue
            for port in alloc.ports:
                taken = self.taken.setdefault(port["HostIP"], set())
                if port["Value"] in taken and not port.get("IgnoreCollision"):
                    self.collision = True
                taken.add(port["Value"])


def assign_ports(ask: Json, used: UsedPorts, rng: Random) -> list[Json]:
    """Choose the ports of one group network on one node.

    A dynamic port is drawn at random up to 20 times from [min, max) and then exactly from the free ports of
    [min, max], so the last port of a range is used only when the rest is nearly full.

    Raises:
        PortsExhausted: a reserved port is taken, or no dynamic one is free.
    """
    node = used.node
    taken = used.taken[node.address]
    reserved = {port["Value"] for port in ask.get("ReservedPorts", ())}
    offer: list[Json] = []
    for port in ask.get("ReservedPorts", ()):
        _known_network(port)
        if port["Value"] in taken and not port.get("IgnoreCollision"):
            raise PortsExhausted(f"network: reserved port collision {port['Label']}={port['Value']}")
        offer.append(_mapping(port, port["Value"], node))
    for port in ask.get("DynamicPorts", ()):
        _known_network(port)
        blocked = taken | reserved | {given["Value"] for given in offer}
        offer.append(
            _mapping(port, draw_port(node.min_dynamic_port, node.max_dynamic_port, blocked, rng), node)
        )
    return offer


def draw_port(low: int, high: int, blocked: set[int], rng: Random) -> int:
    """One free port of [low, high].

    Raises:
        PortsExhausted: all of them are blocked.
    """
    for _ in range(MAX_DRAWS):
        port = low + (rng.randrange(high - low) if high > low else 0)
        if port not in blocked:
            return port
    free = [port for port in range(low, high + 1) if port not in blocked]
    if not free:
        raise PortsExhausted("network: dynamic port selection failed")
    return rng.choice(free)


def _known_network(port: Json) -> None:
    network = port.get("HostNetwork", "default")
    if network != "default":
        raise PortsExhausted(f"network: no addresses available for {network} network")


def _mapping(port: Json, value: int, node: Node) -> Json:
    to = port.get("To", 0)
    mapping: Json = {"Label": port["Label"], "Value": value}
    if to:
        mapping["To"] = value if to == -1 else to
    mapping["HostIP"] = node.address
    if port.get("IgnoreCollision"):
        mapping["IgnoreCollision"] = True
    return mapping
