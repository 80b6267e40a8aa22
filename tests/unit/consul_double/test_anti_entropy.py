"""What is taken out of the catalog behind its agent's back returns, if the agent still has it."""

from __future__ import annotations

from sandbox.consul_double.double import ConsulDouble
from tests.unit.consul_double.conftest import FakeClock
from tests.unit.consul_double.test_state import ids


async def test_a_living_agent_puts_its_service_back_within_a_minute(
    double: ConsulDouble, clock: FakeClock
) -> None:
    double.register({"Name": "web"})
    double.deregister_in_catalog("web")
    assert ids(double) == []
    await clock.advance(59)
    double.tick()
    assert ids(double) == []
    await clock.advance(2)
    double.tick()
    assert ids(double) == ["web"]


async def test_what_the_agent_forgot_stays_away(double: ConsulDouble, clock: FakeClock) -> None:
    double.register({"Name": "web"})
    double.deregister_in_catalog("web")
    double.deregister("web")
    await clock.advance(61)
    double.tick()
    assert ids(double) == []
