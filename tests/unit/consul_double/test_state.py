"""The double's state: per-service indexes, sessions and locks in time, and the knobs for trouble."""

from __future__ import annotations

import pytest

from sandbox.consul_double.double import ConsulDouble
from sandbox.consul_double.refusal import RefusalError
from tests.unit.consul_double.conftest import FakeClock


def ids(double: ConsulDouble, name: str = "web") -> list[str]:
    return [entry["Service"]["ID"] for entry in double.catalog.health(name)]


def passing(double: ConsulDouble, name: str = "web") -> list[str]:
    return [
        entry["Service"]["ID"]
        for entry in double.catalog.health(name)
        if all(check["Status"] == "passing" for check in entry["Checks"])
    ]


async def test_each_service_has_an_index_of_its_own(double: ConsulDouble) -> None:
    double.register({"Name": "web"})
    before = double.catalog.service_index("web")
    double.register({"Name": "other"})
    assert double.catalog.service_index("web") == before
    assert double.catalog.service_index("other") > before


async def test_absent_names_follow_everything_until_something_vanished_and_then_that(
    double: ConsulDouble,
) -> None:
    first = double.catalog.service_index("absent")
    double.register({"Name": "web"})
    assert double.catalog.service_index("absent") > first
    double.deregister("web")
    vanished = double.catalog.service_index("absent")
    double.register({"Name": "again"})
    assert double.catalog.service_index("absent") == vanished == double.catalog.service_index("web")
    double.deregister("again")
    assert double.catalog.service_index("absent") > vanished


async def test_one_of_two_instances_that_leaves_is_no_extinction(double: ConsulDouble) -> None:
    double.register({"ID": "gone", "Name": "gone"})
    double.deregister("gone")
    absent = double.catalog.service_index("absent")
    double.register({"ID": "1", "Name": "web"})
    double.register({"ID": "2", "Name": "web"})
    before = double.catalog.service_index("web")
    double.deregister("1")
    assert double.catalog.service_index("web") > before
    assert double.catalog.service_index("absent") == absent


async def test_an_id_that_changes_its_name_moves(double: ConsulDouble) -> None:
    double.register({"ID": "1", "Name": "web"})
    double.register({"ID": "1", "Name": "api"})
    assert ids(double, "web") == []
    assert ids(double, "api") == ["1"]


async def test_mere_output_is_held_back_from_the_catalog(double: ConsulDouble) -> None:
    double.register({"Name": "web", "Check": {"TTL": "60s"}})
    double.tell("service:web", "passing", "fine")
    index = double.catalog.service_index("web")
    double.tell("service:web", "passing", "still fine")
    assert double.catalog.service_index("web") == index
    assert double.checks()["service:web"]["Output"] == "still fine"


async def test_sessions_end_at_twice_their_ttl_unless_renewed(double: ConsulDouble, clock: FakeClock) -> None:
    short, renewed = (double.kv.create_session({"TTL": "10s"}) for _ in range(2))
    clock.t += 19.9
    double.tick()
    double.kv.renew_session(renewed)
    assert len(double.kv.sessions()[1]) == 2
    clock.t += 0.1
    double.tick()
    assert [one.id for one in double.kv.sessions()[1]] == [renewed]
    assert double.kv.renew_session(short) is None


async def test_a_lock_stays_shut_for_its_delay(double: ConsulDouble, clock: FakeClock) -> None:
    one, two = double.kv.create_session({"LockDelay": "3s"}), double.kv.create_session({})
    assert double.kv.acquire("k", b"", 0, one)
    double.kv.destroy_session(one)
    assert not double.kv.acquire("k", b"", 0, two)
    clock.t += 2.9
    double.tick()
    assert not double.kv.acquire("k", b"", 0, two)
    clock.t += 0.1
    assert double.kv.acquire("k", b"", 0, two)


async def test_sessions_fall_with_their_agent(double: ConsulDouble) -> None:
    session = double.kv.create_session({"LockDelay": 0})
    assert double.kv.acquire("k", b"", 0, session)
    double.register({"Name": "web"})
    index = double.catalog.service_index("web")
    double.set_serf_health("critical")
    double.tick()
    assert passing(double) == []
    assert ids(double) == ["web"]
    assert double.catalog.service_index("web") > index
    entry = double.kv.get("k")[1]
    assert entry is not None
    assert entry.session == ""
    with pytest.raises(RefusalError, match="critical state"):
        double.kv.create_session({})
    double.set_serf_health("passing")
    assert passing(double) == ["web"]


async def test_sessions_can_be_invalidated(double: ConsulDouble) -> None:
    double.kv.create_session({})
    double.invalidate_sessions()
    assert double.kv.sessions()[1] == []


async def test_a_failed_transaction_leaves_no_trace(double: ConsulDouble) -> None:
    before = double.kv.get("k")[0]
    snapshot = double.kv.snapshot()
    double.kv.put("k", b"v")
    double.kv.restore(snapshot)
    assert double.kv.get("k") == (before, None)


async def test_registrations_may_be_late(double: ConsulDouble, clock: FakeClock) -> None:
    double.knobs.registration_delay_s = 30
    double.register({"Name": "web"})
    assert "web" in double.services()
    clock.t += 29
    double.tick()
    assert ids(double) == []
    clock.t += 1
    double.tick()
    assert ids(double) == ["web"]
    double.deregister("web")
    assert ids(double) == ["web"]
    clock.t += 30
    double.tick()
    assert ids(double) == []


async def test_a_late_registration_shows_the_state_of_its_checks_by_then(
    double: ConsulDouble, clock: FakeClock
) -> None:
    double.knobs.registration_delay_s = 5
    double.register({"Name": "web", "Check": {"TTL": "60s"}})
    double.tell("service:web", "passing", "")
    clock.t += 5
    double.tick()
    assert passing(double) == ["web"]


async def test_what_was_deregistered_before_it_showed_never_shows(
    double: ConsulDouble, clock: FakeClock
) -> None:
    double.knobs.registration_delay_s = 5
    double.register({"Name": "web"})
    double.deregister("web")
    clock.t += 5
    double.tick()
    assert ids(double) == []


async def test_an_old_instance_of_a_dead_host_stays_passing_beside_the_new_one(
    double: ConsulDouble,
) -> None:
    double.register({"ID": "_nomad-task-a1-x", "Name": "web", "Check": {"TTL": "60s", "Status": "passing"}})
    double.knobs.frozen.add("_nomad-task-a1-")
    double.deregister("_nomad-task-a1-x")
    double.report("service:_nomad-task-a1-x", "critical", "refused")
    double.register({"ID": "_nomad-task-a2-x", "Name": "web"})
    assert passing(double) == ["_nomad-task-a1-x", "_nomad-task-a2-x"]
    double.thaw("_nomad-task-a1-")
    assert passing(double) == ["_nomad-task-a2-x"]


async def test_indexes_begin_again_after_a_restore(double: ConsulDouble) -> None:
    for number in range(5):
        double.register({"ID": str(number), "Name": "web"})
    double.kv.put("k", b"v")
    before, key_before = double.catalog.service_index("web"), double.kv.get("k")[0]
    woken: list[None] = []
    double.indexes.listen(lambda: woken.append(None))
    double.reset_index()
    assert woken
    assert double.catalog.service_index("web") < before
    assert double.kv.get("k")[0] < key_before
    assert len(ids(double)) == 5
    lower = double.catalog.service_index("web")
    double.register({"ID": "6", "Name": "web"})
    assert lower < double.catalog.service_index("web") < before


async def test_a_restart_without_data_forgets_services(double: ConsulDouble) -> None:
    double.register({"Name": "web", "Check": {"TTL": "60s"}})
    double.forget_everything()
    assert ids(double) == []
    assert double.services() == {}
    assert double.checks() == {}


async def test_instances_that_are_critical_for_too_long_are_removed(
    double: ConsulDouble, clock: FakeClock
) -> None:
    check = {"TTL": "600s", "DeregisterCriticalServiceAfter": "90s"}
    double.register({"Name": "web", "Check": check})
    double.register({"Name": "stays", "Check": {"TTL": "600s"}})
    for _ in range(2):
        clock.t += 30
        double.tick()
    assert ids(double) == ["web"]
    clock.t += 30
    double.tick()
    assert ids(double) == []
    assert ids(double, "stays") == ["stays"]


@pytest.mark.parametrize(
    ("check", "text"),
    [
        ({"GRPC": "127.0.0.1:1", "Interval": "1s"}, "polls HTTP, TCP and TTL"),
        ({"TTL": "x"}, "invalid duration"),
        ({"TTL": "1s", "Status": "great"}, "Status for checks"),
        ({}, None),
        ({"Name": "only a name"}, "TTL must be > 0"),
        ("text", "cannot unmarshal"),
    ],
)
async def test_checks_that_are_refused(double: ConsulDouble, check: object, text: str | None) -> None:
    body = {"Name": "web", "Check": check}
    if text is None:
        double.register(body)  # an empty object is no check
        assert passing(double) == ["web"]
        return
    with pytest.raises(RefusalError, match=text) as caught:
        double.register(body)
    assert caught.value.status == 400
    assert double.services() == {}
