"""What the daemon asks of a container's WAHA. `core.clients.waha.WahaClients` is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from core.clients.waha_models import AlreadyExists, WahaProbe, WahaSession


class Waha(Protocol):
    """One container. Every method raises core.errors.DependencyError and nothing else."""

    async def sessions(self) -> tuple[WahaSession, ...]:
        """All stored sessions, stopped ones too."""

    async def probe(self, name: str) -> WahaProbe:
        """What the engine itself says of a session, read now."""

    async def create_session(
        self, name: str, config: Mapping[str, Any], *, start: bool = False
    ) -> WahaSession | AlreadyExists:
        """Create it, and start it when asked to."""

    async def update_session(self, name: str, config: Mapping[str, Any]) -> WahaSession:
        """Replace the whole config; one that runs stops and starts, with the credentials it has."""

    async def start(self, name: str) -> WahaSession:
        """Start a stopped session."""

    async def restart(self, name: str) -> WahaSession:
        """Stop and start with the credentials it has."""

    async def logout(self, name: str) -> WahaSession:
        """Wipe the credentials; one that runs starts again and asks for a QR."""

    async def stop(self, name: str) -> WahaSession | None:
        """Stop and keep the credentials."""

    async def delete(self, name: str) -> None:
        """Log out and forget."""


class WahaContainers(Protocol):
    """All containers, by where they answer."""

    def at(self, address: str, port: int, api_key: str) -> Waha:
        """The container there. Opens nothing."""
