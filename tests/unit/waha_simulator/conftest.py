"""A simulated container in virtual time, without sockets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox.waha.journal_file import JournalFile
from sandbox.waha.log import Log
from sandbox.waha.session import RunningSession
from sandbox.waha.settings import SimulatorSettings
from sandbox.waha.simulator import WahaSimulator
from sandbox.waha.timers import SteppedTimers

PHONE = "5511999990000"


class Delivery:
    """One webhook POST as it left the container; `done(status, problem)` answers it."""

    def __init__(
        self, url: str, headers: dict[str, str], body: bytes, done: Callable[[int | None, str], None]
    ) -> None:
        self.url = url
        self.headers = headers
        self.raw = body
        self.done = done
        self.envelope: dict[str, Any] = json.loads(body)


class RecordingPoster:
    """Keeps what is sent; answers with `status` at once, or leaves it open when that is 0."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.status: int | None = 200

    def post(
        self,
        url: str,
        headers: list[tuple[str, str]],
        body: bytes,
        done: Callable[[int | None, str], None],
    ) -> None:
        self.deliveries.append(Delivery(url, dict(headers), body, done))
        if self.status != 0:
            done(self.status, "")


class FakeTunnel:
    """A tunnel that the test brings up and breaks."""

    def __init__(self, proxy: dict[str, Any], up: Callable[[], None], down: Callable[[str], None]) -> None:
        self.proxy = proxy
        self.up = up
        self._down = down
        self.sent = self.received = 0
        self.closed = False

    def down(self, why: str = "broken") -> None:
        self.closed = True
        self._down(why)

    def close(self) -> None:
        self.closed = True


class World:
    """One container with its clock in hand. `tunnels`: that its sessions opened, oldest first."""

    def __init__(self, folder: Path, **env: str) -> None:
        defaults = {
            "WAHA_API_KEY": "a-long-enough-key",
            "WHATSAPP_DEFAULT_ENGINE": "GOWS",
            "WAHA_WORKER_ID": "u1",
            "WAHA_NAMESPACE": "u1",
            "WAHA_SIM_STORE_DIR": str(folder),
            "WHATSAPP_HOOK_URL": "http://127.0.0.1:1/hook",
            "WHATSAPP_HOOK_EVENTS": "*",
            "WHATSAPP_HOOK_RETRIES_POLICY": "constant",
            "WHATSAPP_HOOK_RETRIES_ATTEMPTS": "3",
        }
        self.folder = folder
        self.settings = SimulatorSettings(defaults | env)
        self.timers = SteppedTimers()
        self.poster = RecordingPoster()
        self.lines: list[str] = []
        self.journal = JournalFile(str(folder), self.settings.session_namespace, self.settings.allocation)
        self.tunnels: list[FakeTunnel] = []
        self.simulator = WahaSimulator(
            self.settings, self.timers, self.journal, self.poster, Log(self.lines.append), self._dial
        )

    def _dial(self, proxy: dict[str, Any], up: Callable[[], None], down: Callable[[str], None]) -> FakeTunnel:
        self.tunnels.append(FakeTunnel(proxy, up, down))
        return self.tunnels[-1]

    def run(self, steps: Any) -> Any:
        """Runs an operation to its end."""
        return self.timers.finish(steps)

    def create(self, name: str = "chip_1", *, start: bool = True, config: Any = None) -> Any:
        return self.run(self.simulator.create(name, config, None, start=start))

    def status(self, name: str = "chip_1") -> str:
        status: str = self.simulator.session(name)["status"]
        return status

    def running(self, name: str = "chip_1") -> RunningSession:
        session = self.simulator.find_running(name)
        assert session is not None
        return session

    def scan(self, name: str = "chip_1") -> None:
        value = self.running(name).qr_value
        assert value is not None
        self.running(name).scan(value, PHONE, "Ana")
        self.timers.advance(0.2)

    def paired(self, name: str = "chip_1", **options: Any) -> None:
        """A WORKING session."""
        self.create(name, **options)
        self.timers.advance(1)
        self.scan(name)
        assert self.status(name) == "WORKING"

    def heard(self, name: str = "chip_1") -> list[str]:
        """Statuses that webhooks told of, in order."""
        return [
            delivery.envelope["payload"]["status"]
            for delivery in self.poster.deliveries
            if delivery.envelope["event"] == "session.status" and delivery.envelope["session"] == name
        ]


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[..., World]:
    """`make_world(**env)`: containers on one store folder."""
    return lambda **env: World(tmp_path, **env)


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()
