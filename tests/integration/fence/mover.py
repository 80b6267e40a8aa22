"""What the daemon does about placements: the newest running allocation of each user becomes the current one.

A little later than it could, by a random time: a daemon is not always there at once.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import httpx
from sqlalchemy import update

from core.domain.actions import ContainerStatus, Placed
from core.store.engine import transaction
from core.store.interface import Lease
from core.store.tables import placements
from tests.contract.store.harness import PostgresHarness

LOOK_S = 0.2


class User:
    """`current`: allocation that speaks. `moved_at`: monotonic, of the last move."""

    def __init__(self, user_id: str, chip_id: str, lease: Lease) -> None:
        self.user_id = user_id
        self.chip_id = chip_id
        self.lease = lease
        self.current: str | None = None
        self.host = ""
        self.moved_at = 0.0
        self.move_in_s: tuple[str, float] | None = None

    @property
    def job_id(self) -> str:
        return f"user-{self.user_id}"


class Mover:
    """`late_s`: longest delay of a move. `frees_lost`: the planted bug of a lease that ends with `lost`."""

    def __init__(
        self,
        harness: PostgresHarness,
        nomad: httpx.AsyncClient,
        rng: random.Random,
        *,
        late_s: float = 1.0,
        frees_lost: bool = False,
    ) -> None:
        self._store = harness.store
        self._engine = harness.engine
        self._nomad = nomad
        self._rng = rng
        self._late_s = late_s
        self._frees_lost = frees_lost
        self._closed: set[str] = set()
        self.users: dict[str, User] = {}

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        try:
            reply = await self._nomad.get("/v1/allocations")
            reply.raise_for_status()
        except httpx.HTTPError:
            return
        by_job: dict[str, list[dict[str, Any]]] = {}
        for allocation in sorted(reply.json(), key=lambda one: one["CreateIndex"]):
            by_job.setdefault(allocation["JobID"], []).append(allocation)
        for user in list(self.users.values()):
            await self._look(user, by_job.get(user.job_id, []))

    async def _look(self, user: User, allocations: list[dict[str, Any]]) -> None:
        ended = [
            one["ID"]
            for one in allocations
            if one["ClientStatus"] in ("complete", "failed") and one["ID"] not in self._closed
        ]
        if self._frees_lost:
            await self._free([one["ID"] for one in allocations if one["ClientStatus"] == "lost"])
        running = [
            one for one in allocations if one["ClientStatus"] == "running" and one["DesiredStatus"] == "run"
        ]
        placed = None
        if running and running[-1]["ID"] != user.current:
            newest = running[-1]
            if user.move_in_s is None or user.move_in_s[0] != newest["ID"]:
                late_s = self._rng.uniform(0, self._late_s) if user.current else 0
                user.move_in_s = newest["ID"], time.monotonic() + late_s
            if time.monotonic() >= user.move_in_s[1]:
                placed = Placed(newest["ID"], newest["NodeID"], newest["NodeName"], None, None)
        if placed is None and not ended:
            return
        status = ContainerStatus(phase="moving", placed=placed, closed_allocations=tuple(ended))
        await self._store.write_status(user.lease, status, {}, {}, 1)
        self._closed.update(ended)
        if placed is not None:
            user.current, user.host, user.moved_at = placed.allocation_id, placed.node_name, time.monotonic()

    async def _free(self, lost: list[str]) -> None:
        freed = update(placements).where(placements.c.allocation_id.in_(lost)).values(lease_until=None)
        async with transaction(self._engine) as connection:
            await connection.execute(freed)
