"""What the daemon tells about itself: when it is not ready and why, and that its labels stay few and plain."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from core.errors import Unavailable
from core.settings import SettingsError, load
from core.status_server import bind
from daemon.health import Health
from daemon.sources.supervisor import Supervisor
from tests.unit.daemon.system import C1, U1, U2, Daemon, World, scenario


class Quiet:
    """A source that gives signs of life only when told to."""

    quiet_s = 30.0

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive: Callable[[], None] = lambda: None

    async def listen(self, alive: Callable[[], None]) -> None:
        self.alive = alive
        alive()
        await asyncio.sleep(1e9)


def health_of(daemon: Daemon, *sources: Supervisor) -> Health:
    return Health(
        sources=sources,
        outages=daemon.outages,
        queue=daemon.queue,
        fleet=daemon.fleet,
        sweep=daemon.sweep,
        metrics=daemon.metrics,
    )


def ready(health: Health) -> tuple[int, list[str]]:
    status, _, body = health.answer("GET", "/ready", "")
    return status, msgspec.json.decode(body)["problems"]


@scenario
async def test_it_is_ready_while_every_source_is_heard_of_and_no_system_is_away(w: World) -> None:
    daemon = Daemon(w)
    source = Quiet("scheduler")
    one = Supervisor(source, w.clock, Random(1))
    health = health_of(daemon, one)
    assert ready(health) == (503, ["source scheduler"])
    running = asyncio.create_task(one.run())
    await asyncio.sleep(1)
    assert ready(health) == (200, [])
    await asyncio.sleep(31)
    assert ready(health) == (503, ["source scheduler"])
    source.alive()
    daemon.outages.failed("postgres", Unavailable("postgres", "down"))
    assert ready(health) == (503, ["postgres"])
    daemon.outages.worked("postgres")
    health.stopping = True
    assert ready(health) == (503, ["stopping"])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@scenario
async def test_a_holder_whose_sweeps_do_not_come_to_an_end_is_not_ready(w: World) -> None:
    daemon = Daemon(w)
    health = health_of(daemon)
    async with daemon.running():
        await asyncio.sleep(100)
        assert ready(health) == (200, [])
        real = daemon.sweep.run

        async def stuck(*_: Any) -> None:
            await asyncio.sleep(1e9)

        daemon.sweep.run = stuck  # type: ignore[assignment, method-assign]
        await asyncio.sleep(340)
        assert ready(health) == (503, ["sweep"])
        daemon.sweep.run = real  # type: ignore[method-assign]
        await asyncio.sleep(400)
        assert ready(health) == (200, [])


@scenario
async def test_metrics_show_passes_effects_sources_and_users_and_name_nobody(w: World) -> None:
    daemon = Daemon(w)
    supervised = [Supervisor(source, w.clock, Random(1)) for source in daemon.sources]
    health = health_of(daemon, *supervised)
    async with daemon.running():
        w.store.add_chip(U1, C1)
        daemon.queue.put(U1)
        w.faults.before["nomad.newest_placement"] = Unavailable("nomad", "away")
        await w.until(lambda: w.phase() == ("qr", None))
        daemon.outages.failed("storage", Unavailable("storage", "down"))
        await asyncio.sleep(70)
        status, content_type, body = health.answer("GET", "/metrics", "")
    assert status == 200
    assert content_type.startswith("text/plain")
    text = body.decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    values = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert values["wahafleet_fleet_holder",] == 1
    assert values["wahafleet_effects_total", ("kind", "RegisterJob"), ("verdict", "done")] == 1
    assert values["wahafleet_users", ("phase", "ready"), ("reason", "")] == 1
    assert values["wahafleet_dependency_away_seconds", ("system", "storage")] == pytest.approx(70)
    assert values["wahafleet_queue_length",] == 1
    assert values["wahafleet_leases_held",] == 0
    assert values["wahafleet_source_restarts", ("source", "resync")] == 0
    assert values["wahafleet_duties_total", ("duty", "sweep"), ("outcome", "done")] >= 2
    assert sum(value for name, value in values.items() if name[0] == "wahafleet_passes_total") > 3
    allowed = {
        "outcome",
        "kind",
        "verdict",
        "source",
        "system",
        "phase",
        "reason",
        "duty",
        "why",
        "le",
        "state",
    }
    labels = {label for family in families.values() for sample in family.samples for label in sample.labels}
    assert labels <= allowed
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}", text)  # no user, chip or allocation
    assert U1 not in text
    assert U2 not in text


@scenario
async def test_who_no_longer_sweeps_tells_no_old_numbers_of_users(w: World) -> None:
    daemon = Daemon(w)
    async with daemon.running():
        w.store.add_chip(U1, C1)
        await asyncio.sleep(100)
        registry = daemon.metrics.registry
        assert registry.get_sample_value("wahafleet_users", {"phase": "ready", "reason": ""}) == 1
        w.store.steal("fleet")
        await asyncio.sleep(30)
        assert registry.get_sample_value("wahafleet_fleet_holder") == 0
        assert registry.get_sample_value("wahafleet_users", {"phase": "ready", "reason": ""}) is None


@scenario
async def test_nothing_else_is_answered(w: World) -> None:
    health = health_of(Daemon(w))
    assert health.answer("GET", "/live", "")[0] == 200
    assert health.answer("HEAD", "/live", "")[0] == 200
    assert health.answer("POST", "/live", "")[0] == 405
    assert health.answer("GET", "/", "")[0] == 404


@pytest.mark.parametrize("text", ["8001", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:x", ":8001"])
def test_an_address_that_is_none_is_refused_with_all_other_problems(text: str) -> None:
    with pytest.raises(SettingsError, match=r"WAHAFLEET_DAEMON_LISTEN: .* host:port"):
        load({"WAHAFLEET_DAEMON_LISTEN": text}, part="daemon")


def test_an_address_that_cannot_be_had_is_one_sentence() -> None:
    with pytest.raises(SettingsError, match=r"cannot listen on 192\.0\.2\.1:1 .* name another host:port"):
        bind("192.0.2.1:1", "WAHAFLEET_DAEMON_LISTEN")
