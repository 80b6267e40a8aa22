"""The same calls as a fleet's, sent by a script that does nothing else: what the daemon is held against."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from typing import Any, Final

import httpx

from bench.sides import Bare
from core import crypto
from core.domain import names
from core.jobs import wanted_job
from core.settings import load
from core.store.interface import ContainerSecrets

WORKERS: Final = 16


async def plain(
    nomad: str, consul: str, env: dict[str, str], count: int, calls: Counter[str]
) -> tuple[float, dict[str, int]]:
    """Seconds that the same calls take when nobody thinks, stores or waits in between, and what was not sent."""
    settings = load(env, part="daemon")
    left = Counter(calls)
    gate = asyncio.Semaphore(WORKERS)
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    async with Bare(settings) as bare, httpx.AsyncClient(timeout=60, trust_env=False, limits=limits) as http:

        async def call(kind: str, method: str, url: str, **more: Any) -> httpx.Response | None:
            left[kind] -= 1
            return await http.request(method, url, **more)

        async def one(number: int) -> None:
            async with gate:
                share = {
                    kind: calls[kind] * (number + 1) // count - calls[kind] * number // count
                    for kind in calls
                }
                secrets = ContainerSecrets(crypto.new_api_key(), crypto.new_hook_key())
                row = bare._row(secrets)
                job, path = names.job_id(row.user_id), names.variable_path(row.user_id)
                wanted = wanted_job(bare._template, row, settings.job)
                reads = [
                    ("nomad GET /v1/job/:id", f"{nomad}/v1/job/{job}"),
                    ("nomad GET /v1/job/:id/allocations", f"{nomad}/v1/job/{job}/allocations?all=true"),
                    ("nomad GET /v1/job/:id/evaluations", f"{nomad}/v1/job/{job}/evaluations"),
                    (
                        "consul GET /v1/health/service/waha-plus (one user)",
                        f'{consul}/v1/health/service/waha-plus?filter=Service.Meta.user=="{row.user_id}"',
                    ),
                ]

                async def look() -> None:
                    """One round of the reads that are still this user's share, side by side as a pass sends them."""
                    due = [(kind, url) for kind, url in reads if share.get(kind, 0) > 0]
                    for kind, _ in due:
                        share[kind] -= 1
                    await asyncio.gather(*(call(kind, "GET", url) for kind, url in due))

                await look()
                kind = "nomad PUT /v1/var/nomad/jobs/:id"
                await call(kind, "PUT", f"{nomad}/v1/var/{path}", json={"Items": wanted.variables})
                body = {
                    "Job": wanted.job,
                    "EnforceIndex": True,
                    "JobModifyIndex": 0,
                    "Submission": wanted.submission,
                }
                await call("nomad PUT /v1/jobs", "PUT", f"{nomad}/v1/jobs", json=body)
                await look()
            # Nobody waits at a worker for Nomad: the daemon hears of it by its stream, the script from one list.
            allocation = await placed.of(job)
            async with gate:
                whole = await call(
                    "nomad GET /v1/allocation/:id", "GET", f"{nomad}/v1/allocation/{allocation}"
                )
                assert whole is not None
                (port,) = whole.json()["AllocatedResources"]["Shared"]["Ports"]
                while any(share.get(kind, 0) > 0 for kind, _ in reads):
                    await look()
                base, headers = f"http://{port['HostIP']}:{port['Value']}", {"X-Api-Key": secrets.api_key}
                session = {"name": names.session_name(str(uuid.uuid4())), "start": True, "config": {}}
                await call(
                    "waha POST /api/sessions", "POST", f"{base}/api/sessions", json=session, headers=headers
                )
                for _ in range(share.get("waha GET /api/sessions", 0)):
                    await call(
                        "waha GET /api/sessions", "GET", f"{base}/api/sessions?all=true", headers=headers
                    )

        placed = _Placed(http, f"{nomad}/v1/allocations?task_states=false")
        listing = asyncio.create_task(placed.run())
        began = time.perf_counter()
        await asyncio.gather(*map(one, range(count)))
        took_s = time.perf_counter() - began
        listing.cancel()
        await asyncio.gather(listing, return_exceptions=True)
    return took_s, {kind: n for kind, n in left.items() if n > 0}


class _Placed:
    """Who runs by now, from one blocking list for everybody."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http = http
        self._url = url
        self._running: dict[str, str] = {}
        self._news = asyncio.Event()

    async def run(self) -> None:
        index = "0"
        while True:
            answer = await self._http.get(f"{self._url}&index={index}&wait=5s")
            index = answer.headers["X-Nomad-Index"]
            for stub in answer.json():
                if stub["ClientStatus"] == "running":
                    self._running[stub["JobID"]] = stub["ID"]
            news, self._news = self._news, asyncio.Event()
            news.set()
            await asyncio.sleep(0.2)  # such a list grows with the fleet; more of it would burden the double

    async def of(self, job: str) -> str:
        while job not in self._running:
            await self._news.wait()
        return self._running[job]
