"""A user with one chip whose session shows a QR, for tests of the codes that pages are shown."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from core.crypto import Sealer, hashed_api_key
from core.store.containers import container_secrets
from sandbox.waha.inline import InlineContainer, InlineSimulators
from tests.integration.api.conftest import Person, Running
from tests.integration.api.fleet import QR

UNREACHABLE = "O serviço do WhatsApp está iniciando ou indisponível. Tentando novamente..."
SPEED = 20.0


@dataclass
class Stage:
    """A user with one chip whose session shows a QR in a simulated container."""

    running: Running
    person: Person
    chip_id: str
    key: str
    folder: Path
    start_waha: Callable[..., InlineContainer]
    containers: list[InlineContainer] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"/chips/{self.chip_id}/qr"

    @property
    def port(self) -> int:
        return self.containers[-1].address[1]

    async def poll(self) -> dict[str, Any]:
        answer = await self.person.get(self.path)
        assert answer.status_code == 200
        body: dict[str, Any] = answer.json()
        assert set(body) == {"qr", "qr_code", "expires_at", "status", "message"}
        assert body["qr"] == body["qr_code"]
        assert body["message"]
        assert (body["qr"] is not None) == (body["status"] == "SCAN_QR_CODE")
        return body

    async def waha(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as http:
            return await http.request(
                method,
                f"http://127.0.0.1:{self.port}{path}",
                json=body,
                headers={"X-Api-Key": self.key},
                timeout=20,
            )

    def new_container(self, key: str | None = None, folder: Path | None = None) -> InlineContainer:
        container = self.start_waha(key or self.key, folder or self.folder)
        self.containers.append(container)
        return container

    async def session_shows_qr(self) -> None:
        created = await self.waha("POST", "/api/sessions", {"name": f"chip_{self.chip_id}", "start": True})
        if created.status_code == 422:
            await self.waha("POST", f"/api/sessions/chip_{self.chip_id}/restart", {})
        shown = await self.waha("GET", f"/api/chip_{self.chip_id}/auth/qr")
        assert shown.status_code == 200


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(100):
        if await holds():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come true within 5 s")


async def staged(running: Running, simulators: InlineSimulators, folder: Path) -> Stage:
    person = await running.person()
    chip = await person.chip()
    sealer = Sealer(tuple(key.reveal() for key in running.settings.store.secret_keys))
    secrets = await container_secrets(running.engine, person.id, sealer)
    assert secrets is not None

    def start_waha(key: str, where: Path) -> InlineContainer:
        where.mkdir(parents=True, exist_ok=True)
        return simulators.start(
            {
                "WAHA_API_KEY": hashed_api_key(key),
                "WHATSAPP_DEFAULT_ENGINE": "GOWS",
                "WHATSAPP_API_PORT": "0",
                "WAHA_WORKER_ID": "u1",
                "WAHA_NAMESPACE": "u1",
                "WAHA_SIM_STORE_DIR": str(where),
                "WAHA_SIM_CLOCK_SPEED": str(SPEED),
            }
        )

    stage = Stage(running, person, chip["id"], secrets.api_key, folder, start_waha)
    stage.new_container()
    await stage.session_shows_qr()
    await running.daemon.saw(person.id, port=stage.port, chips={chip["id"]: QR})
    return stage


def end(stage: Stage) -> None:
    for container in stage.containers:
        if container.exit_code is None:
            container.kill()
            container.wait(10)
