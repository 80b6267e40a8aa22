"""The two ways from a wish to a QR that the benchmark compares."""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol, Self

import httpx
import msgspec

from api.tokens import Tokens
from core import crypto, jobspecs
from core.clock import SystemClock
from core.domain import names
from core.domain.actor import COMMAND_LINE
from core.domain.desired import Resources
from core.jobs import wanted_job
from core.settings import Settings
from core.store.engine import create_engine
from core.store.interface import ContainerRow, ContainerSecrets
from core.store.users_admin import ensure_user

TIMEOUT_S = 40.0
POLL_S = 0.01


class Sample(msgspec.Struct, frozen=True):
    """Seconds from the wish, in one round."""

    first_chip_port: float
    first_chip_qr: float
    further_chip_port: float
    further_chip_qr: float


class Side(Protocol):
    name: str

    async def round(self) -> Sample:
        """A new user's first chip, a further one, and everything removed again (not measured)."""


class Wahafleet:
    """A script of a user who wants two chips."""

    name = "wahafleet"

    def __init__(self, api: str, settings: Settings) -> None:
        self._http = httpx.AsyncClient(base_url=f"{api}/api/v1", timeout=TIMEOUT_S, trust_env=False)
        self._engine = create_engine(settings.store, application_name="wahafleet bench")
        self._tokens = Tokens(settings.api, SystemClock())

    async def round(self) -> Sample:
        user = await ensure_user(
            self._engine,
            email=f"{uuid.uuid4().hex}@bench.example",
            password_hash="none",
            name="Bench",
            phone="+5511999999999",
            plan_slug="enterprise",
            actor=COMMAND_LINE,
        )
        self._http.headers["Authorization"] = f"Bearer {self._tokens.issue(user).access_token}"
        first = await self._create("first")
        further = await self._create("further")
        for chip in (await self._http.get("/chips")).json():
            (await self._http.delete(f"/chips/{chip['id']}")).raise_for_status()
        return Sample(*first, *further)

    async def _create(self, alias: str) -> tuple[float, float]:
        began = time.perf_counter()
        answer = await self._http.post("/chips", json={"alias": alias})
        placed = time.perf_counter() - began
        chip = answer.raise_for_status().json()
        assert chip["extra_data"]["waha_plus_port"], chip
        while True:
            shown = (await self._http.get(f"/chips/{chip['id']}/qr")).raise_for_status().json()
            if shown["qr"]:
                return placed, time.perf_counter() - began
            # Asked without a pause the API would be busy with the question and not with the answer.
            await asyncio.sleep(POLL_S)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()
        await self._engine.dispose()


class Bare:
    """The shortest script that does the same to Nomad, Consul and WAHA, with no store and no daemon."""

    name = "bare"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._template = jobspecs.template(settings.job.jobspec)
        self._nomad = httpx.AsyncClient(base_url=settings.nomad.address, timeout=TIMEOUT_S, trust_env=False)
        self._consul = httpx.AsyncClient(base_url=settings.consul.address, timeout=TIMEOUT_S, trust_env=False)
        self._waha = httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False)

    async def round(self) -> Sample:
        secrets = ContainerSecrets(crypto.new_api_key(), crypto.new_hook_key())
        row = self._row(secrets)
        job = names.job_id(row.user_id)
        wanted = wanted_job(self._template, row, self._settings.job)
        began = time.perf_counter()
        path = names.variable_path(row.user_id)
        await _ok(self._nomad.put(f"/v1/var/{path}", json={"Path": path, "Items": wanted.variables}))
        body = {"Job": wanted.job, "Submission": wanted.submission}
        await _ok(self._nomad.put("/v1/jobs", json=body))
        allocation, base_url = await self._placed(job)
        placed = time.perf_counter() - began
        await self._passing(allocation)
        headers = {"X-Api-Key": secrets.api_key}
        await self._session(base_url, headers)
        first = time.perf_counter() - began
        began = time.perf_counter()
        # The port of a further chip is known before it is asked for.
        further_port = time.perf_counter() - began
        await self._session(base_url, headers)
        further = time.perf_counter() - began
        await _ok(self._nomad.delete(f"/v1/job/{job}", params={"purge": "true"}))
        return Sample(placed, first, further_port, further)

    async def _placed(self, job: str) -> tuple[str, str]:
        index = 0
        while True:
            query: dict[str, Any] = {"index": index, "wait": "10s", "resources": "true"}
            answer = await _ok(self._nomad.get(f"/v1/job/{job}/allocations", params=query))
            index = int(answer.headers["X-Nomad-Index"])
            for stub in answer.json():
                found = (await _ok(self._nomad.get(f"/v1/allocation/{stub['ID']}"))).json()
                for port in found["AllocatedResources"]["Shared"]["Ports"] or ():
                    return stub["ID"], f"http://{port['HostIP']}:{port['Value']}"

    async def _passing(self, allocation: str) -> None:
        index = "0"
        while True:
            query = {"index": index, "wait": "10s", "passing": "true"}
            answer = await _ok(self._consul.get(f"/v1/health/service/{names.SERVICE_NAME}", params=query))
            index = answer.headers["X-Consul-Index"]
            if any(one["Service"]["Meta"].get("allocation") == allocation for one in answer.json()):
                return

    async def _session(self, base_url: str, headers: dict[str, str]) -> None:
        name = names.session_name(str(uuid.uuid4()))
        body = {"name": name, "start": True, "config": {}}
        await _ok(self._waha.post(f"{base_url}/api/sessions", json=body, headers=headers))
        await _ok(self._waha.get(f"{base_url}/api/{name}/auth/qr", headers=headers))

    def _row(self, secrets: ContainerSecrets) -> ContainerRow:
        now = datetime.now(UTC)
        return ContainerRow(
            user_id=str(uuid.uuid4()),
            email="bench@bench.example",
            plan_slug="enterprise",
            resources=Resources(200, 300, 2048),
            max_chips=10,
            generation=1,
            pinned=False,
            deleted=False,
            namespace=crypto.new_namespace(),
            storage_id=self._settings.job.storage_id,
            created_at=now,
            phase="absent",
            reason=None,
            since=now,
            registered=None,
            variables_hash=None,
            current_allocation=None,
            empty_since=None,
            secrets=secrets,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for http in (self._nomad, self._consul, self._waha):
            await http.aclose()


async def _ok(call: Any) -> httpx.Response:
    answer: httpx.Response = await call
    return answer.raise_for_status()
