"""The draw of dynamic ports."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.nomad_double.model import Node
from sandbox.nomad_double.ports import PortsExhausted, UsedPorts, assign_ports, draw_port


def a_node(low: int, high: int, reserved: list[int]) -> Node:
    return Node(
        id="n",
        name="host-1",
        address="127.0.0.1",
        datacenter="dc1",
        node_pool="default",
        node_class="",
        attributes={},
        meta={},
        cpu_mhz=1,
        memory_mb=1,
        disk_mb=1,
        min_dynamic_port=low,
        max_dynamic_port=high,
        reserved_ports=reserved,
        drivers=[],
        max_kill_timeout_ns=0,
    )


@given(low=st.integers(1, 60_000), size=st.integers(1, 30), seed=st.integers(), data=st.data())
def test_every_free_port_is_found_and_no_other(low: int, size: int, seed: int, data: st.DataObject) -> None:
    high = low + size - 1
    blocked = data.draw(st.sets(st.integers(low - 2, high + 2)))
    free = set(range(low, high + 1)) - blocked
    rng = Random(seed)
    drawn: set[int] = set()
    while len(drawn) < len(free):
        port = draw_port(low, high, blocked | drawn, rng)
        assert port in free - drawn
        drawn.add(port)
    with pytest.raises(PortsExhausted, match="network: dynamic port selection failed"):
        draw_port(low, high, blocked | drawn, rng)


@given(labels=st.integers(1, 6), seed=st.integers())
def test_ports_of_one_group_differ_and_avoid_the_reserved(labels: int, seed: int) -> None:
    node = a_node(3100, 3106, [3100])
    ask = {"DynamicPorts": [{"Label": f"p{n}", "To": -1 if n else 3000} for n in range(labels)]}
    offer = assign_ports(ask, UsedPorts(node, []), Random(seed))
    values = [port["Value"] for port in offer]
    assert len(set(values)) == labels
    assert 3100 not in values
    assert offer[0]["To"] == 3000
    assert all(port["To"] == port["Value"] for port in offer[1:])
    assert {port["HostIP"] for port in offer} == {"127.0.0.1"}


def test_a_taken_static_port_is_named() -> None:
    node = a_node(3100, 3199, [3150])
    ask = {"ReservedPorts": [{"Label": "http", "Value": 3150}]}
    with pytest.raises(PortsExhausted, match="network: reserved port collision http=3150"):
        assign_ports(ask, UsedPorts(node, []), Random(1))


def test_an_unknown_host_network_is_named() -> None:
    ask = {"DynamicPorts": [{"Label": "http", "HostNetwork": "private"}]}
    with pytest.raises(PortsExhausted, match="network: no addresses available for private network"):
        assign_ports(ask, UsedPorts(a_node(3100, 3199, []), []), Random(1))
