"""What the daemon asks of a container's WAHA. `core.clients.waha.WahaClients` is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from core.clients.waha_models import AlreadyExists, WahaSession


class Waha(Protocol):
    """One container. Every method raises core.errors.DependencyError and nothing else."""

    async def sessions(self) -> tuple[WahaSession, ...]:
        """All stored sessions, stopped ones too."""

    async def create_session(
        self, name: str, config: Mapping[str, Any], *, start: bool = False
    ) -> WahaSession | AlreadyExists:
        """Create it, and start it when asked to."""

    async def start(self, name: str) -> WahaSession:
        """Start a stopped session."""

    async def restart(self, name: str) -> WahaSession:
        """Stop and start with the credentials it has."""

    async def stop(self, name: str) -> WahaSession | None:
        """Stop and keep the credentials."""

    async def delete(self, name: str) -> None:
        """Log out and forget."""


class WahaContainers(Protocol):
    """All containers, by where they answer."""

    def at(self, address: str, port: int, api_key: str) -> Waha:
        """The container there. Opens nothing."""
