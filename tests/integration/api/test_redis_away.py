"""Redis dies in the middle of everything; nobody sees another answer."""

from __future__ import annotations

import asyncio
import time

from sandbox.valkey import EmbeddedValkey
from tests.integration.api.conftest import PASSWORD, Start
from tests.integration.api.fleet import PARKED, QR


async def test_every_route_answers_as_before(start: Start, mortal: EmbeddedValkey) -> None:
    async with start(redis_url=mortal.url()) as running:
        person = await running.person()
        chip = await person.chip()
        # Placed, and WAHA does not answer: the longest way through the QR route.
        await running.daemon.saw(person.id, port=1, chips={chip["id"]: QR})

        async def walk(alias: str) -> list[tuple[int, object]]:
            path = f"/chips/{chip['id']}"
            login = {"email": person.email, "password": PASSWORD}
            began = time.monotonic()
            answers = [
                await running.client.post("/api/v1/auth/login", json=login),
                await person.get("/users/me"),
                await person.get("/chips"),
                await person.get(path),
                await person.get(f"{path}/qr"),
                await person.post(f"{path}/reconnect"),
            ]
            running.client.cookies.clear()
            assert time.monotonic() - began < 4
            bodies: list[tuple[int, object]] = [(answers[0].status_code, None)]
            bodies += [(answer.status_code, answer.json()) for answer in answers[1:]]
            made = await person.chip(alias)
            assert (await person.delete(f"/chips/{made['id']}")).status_code == 204
            return bodies

        with_redis = await walk("with")
        assert (await running.client.get("/health/ready")).json()["dependencies"]["cache"] == "ok"
        mortal.kill()
        without_redis = await walk("without")
        assert without_redis == with_redis
        ready = (await running.client.get("/health/ready")).json()
        assert (ready["status"], ready["dependencies"]["cache"]) == ("degraded", "unavailable")
        # News still arrive.
        waiting = asyncio.create_task(
            person.post("/chips", json={"alias": "placed"}, headers={"Prefer": "wait=20"})
        )
        await running.daemon.saw(person.id, port=2, chips={chip["id"]: PARKED})
        assert (await waiting).status_code == 201
