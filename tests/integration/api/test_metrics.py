"""GET /metrics: what was asked and how it went, by template; nothing of anybody."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.integration.api.conftest import OPERATOR_TOKEN, Person, Running
from tests.integration.api.test_fleet import next_of, watching


async def samples(running: Running) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = await running.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def requests(found: dict[tuple[str, frozenset[tuple[str, str]]], float], **labels: str) -> float:
    return found.get(("wahafleet_api_requests_total", frozenset(labels.items())), 0)


async def test_requests_are_counted_by_template_and_status(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    for _ in range(3):
        assert (await person.get(f"/chips/{chip['id']}")).status_code == 200
    assert (await person.get("/chips/nope")).status_code == 404
    assert (await running.client.get("/api/v1/notifications/secret-of-somebody")).status_code == 404
    assert (await running.client.delete("/health")).status_code == 405
    await Person("", "", OPERATOR_TOKEN, running.client).get(f"/containers/{person.email}")
    found = await samples(running)
    one = "/api/v1/chips/{chip_id}"
    route = next(
        dict(labels)["route"] for name, labels in found if name.endswith("requests_total") and ("status", "404") in labels
        and dict(labels)["route"] != "unknown"
    )  # fmt: skip
    assert route.startswith("/api/v1/chips/{chip_id"), one
    assert requests(found, route=route, method="GET", status="200") == 3
    assert requests(found, route=route, method="GET", status="404") == 1
    assert requests(found, route="/api/v1/chips", method="POST", status="201") == 1
    assert requests(found, route="unknown", method="GET", status="404") == 1
    took = found[("wahafleet_api_request_seconds_count", frozenset({("route", route)}))]
    assert took == 4
    text = (await running.client.get("/metrics")).text
    for private in (person.id, person.email, chip["id"], "secret-of-somebody", OPERATOR_TOKEN):
        assert private not in text


async def test_open_streams_and_the_pool(running: Running) -> None:
    async with watching(running) as heard:
        await next_of(heard, "fleet")
        found = await samples(running)
        assert found[("wahafleet_api_streams_open", frozenset())] == 1
        assert found[("wahafleet_api_store_connections_most", frozenset())] == 5
        assert ("wahafleet_api_store_connections_used", frozenset()) in found
        assert found[("wahafleet_api_qr_cache_total", frozenset({("outcome", "hit")}))] == 0
    after = await samples(running)
    assert after[("wahafleet_api_streams_open", frozenset())] == 0
    stream = "/api/v1/fleet/events"
    assert requests(after, route=stream, method="GET", status="200") == 1
    assert ("wahafleet_api_request_seconds_count", frozenset({("route", stream)})) not in after
