"""The simulated cluster keeps to what Nomad and Consul were seen to do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from core.domain.facts import ClientStatus
from core.domain.names import JOB_PREFIX
from tests.simulation.discovery import Catalog
from tests.simulation.hosts import Container, Host
from tests.simulation.invariants import _lost_sight_of
from tests.simulation.network import Network
from tests.simulation.releases import FIRST
from tests.simulation.servers import HAND, KILL_S, STOP_AFTER_S, Alloc, Servers
from tests.simulation.waha import Sessions
from tests.simulation.world import World

USER = "00000005-0000-0000-0000-000000000001"
JOB = JOB_PREFIX + USER
_TASK = {"Config": {"args": [FIRST]}}
SEEDS = range(40)  # of the delays, so that every order of two messages comes up


def cluster(seed: int, hosts: int) -> tuple[World, list[float]]:
    """A cluster without daemons, and the list that gets a moment for each container that starts."""
    world, started = World(seed), []
    world.network, world.servers = Network(world), Servers(world)
    world.catalog, world.waha = Catalog(world), Sessions(world)
    world.owners = cast("Any", SimpleNamespace(container_key=lambda user: "key"))

    def container_started(container: Container) -> None:
        started.append(world.now)
        for other in world.waha.containers_of(container.user):
            assert other is container, "two containers run"

    world.checker = cast("Any", SimpleNamespace(container_started=container_started))
    world.hosts = [Host(world, number, range(3100, 3110), frozenset()) for number in range(1, hosts + 1)]
    world.loop.at(3600.0, lambda: None)  # a loop with nothing ahead refuses to run
    return world, started


def placed(world: World) -> Alloc:
    return world.servers.allocs[JOB][-1]


def register(world: World, by: str = "a test", *, kill_s: int = 30) -> Alloc:
    groups = [{"Tasks": [{**_TASK, "KillTimeout": kill_s}], "Networks": []}]
    world.servers.register({"ID": JOB, "TaskGroups": groups}, by)
    return placed(world)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_container_that_listens_before_consul_knows_it_passes_its_check_soon(seed: int) -> None:
    world, _ = cluster(seed, 1)
    world.hosts[0].agent_ok = False  # its client starts nothing by itself here
    container = Container(register(world), "key", world.now)
    container.alloc.container = container
    world.catalog.register(container)
    container.listening = True
    world.catalog.check(container)
    world.loop.run(4.0)  # its check runs every 2 s
    assert [one.passing for one in world.catalog.all() if one.allocation_id == container.alloc.id] == [True]


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_lost_before_it_ran_holds_its_place_as_long_as_what_ran(seed: int) -> None:
    """Stopped by hand, replaced on a host that falls silent: the first one has time to end."""
    world, started = cluster(seed, 3)
    first = register(world)
    world.loop.run(5.0)
    assert first.client is ClientStatus.RUNNING
    first.host.full = True  # the successor goes elsewhere
    world.servers.stop_alloc(first)
    second = placed(world)
    assert second.previous is first
    assert second.client is ClientStatus.PENDING
    second.host.connected = False  # before it hears of the allocation
    second.host.down = True
    world.servers.node_down(second.host)
    lost_at = world.now
    assert second.lost_at == lost_at
    assert placed(world) is second, "placed at once beside the one that is still being stopped"
    world.loop.run(lost_at + STOP_AFTER_S + KILL_S - 1.0)
    assert placed(world) is second
    world.loop.run(lost_at + STOP_AFTER_S + KILL_S + 10.0)
    third = placed(world)
    assert third is not second
    assert third.client is ClientStatus.RUNNING
    assert len(started) == 2
    assert started[1] >= lost_at + STOP_AFTER_S + KILL_S


@pytest.mark.parametrize(("by", "excused"), [(HAND, True), ("d1", False)])
def test_a_register_beside_what_a_drain_still_stops_is_excused_by_hand_alone(by: str, excused: bool) -> None:
    world, _ = cluster(0, 1)
    first = register(world)
    world.loop.run(5.0)
    assert first.container is not None
    first.container.stopping = True  # it takes its time to end
    first.host.drain()  # there is no other host yet
    world.hosts.append(Host(world, 2, range(3100, 3110), frozenset()))
    world.servers.unblock()
    second = placed(world)
    assert (second.previous, second.container, first.desired) == (first, None, "stop")
    register(world, by, kill_s=1)
    third = placed(world)
    assert third.previous is second
    assert _lost_sight_of(third, first) is excused
