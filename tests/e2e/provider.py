"""The sandbox's provider as tests see it: its knobs, and its journal, by which they judge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from sandbox.provider.journal import Line, read
from tests.e2e.running import Up

WHATSAPP = "g.whatsapp.net:443"
ECHO = "echo.invalid:80"


class LocalProvider:
    """Times of lines are CLOCK_MONOTONIC's, as `time.monotonic()` tells them here."""

    def __init__(self, up: Up) -> None:
        folder = up.data / "egress"
        self._file = folder / "provider.jsonl"
        ports = json.loads((folder / "ports.json").read_text())
        self.guard_port = int(ports["guard"])
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{ports['control']}", timeout=10, trust_env=False
        )

    def close(self) -> None:
        self._http.close()

    def lines(self, since: float = 0.0) -> list[Line]:
        return [line for line in read(self._file) if line.at >= since]

    def opened(self, since: float = 0.0, target: str = WHATSAPP) -> list[Line]:
        """Tunnels that were opened, oldest first."""
        return [line for line in self.lines(since) if line.event == "open" and line.target == target]

    def chunks(self, since: float = 0.0) -> list[Line]:
        """What went through tunnels to WhatsApp."""
        carried = {line.tunnel for line in self.opened()}
        return [line for line in self.lines(since) if line.event == "chunk" and line.tunnel in carried]

    def open_users(self) -> list[str]:
        """User names of what is open now, sorted."""
        return sorted(self._http.get("/tunnels").raise_for_status().json()["tunnels"].values())

    @contextmanager
    def turned(self, **knobs: Any) -> Iterator[None]:
        """Knobs while the block runs; afterwards they stand as they stood before."""
        before = self._http.get("/knobs").raise_for_status().json()
        self._http.post("/knobs", json=knobs).raise_for_status()
        try:
            yield
        finally:
            self._http.post("/knobs", json={name: before[name] for name in knobs}).raise_for_status()
