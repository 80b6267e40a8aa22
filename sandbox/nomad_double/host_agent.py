"""Whether the Nomad agent of a simulated host runs and reaches its servers: the switch behind node silence."""

from __future__ import annotations

import asyncio
from typing import Literal

HostState = Literal["up", "cut off", "frozen", "agent dead", "dead"]
"""up: all is well. cut off: the agent runs and hears no server. frozen: it exists and does nothing (SIGSTOP).
agent dead: it is gone, its tasks run on. dead: the whole host is gone, its tasks with it."""


class HostAgent:
    """The state of one host's agent, and a way to wait until it can act again.

    Whatever a client does on its own passes `until_awake`; whatever needs its servers passes
    `until_reachable`.
    """

    def __init__(self) -> None:
        self.state: HostState = "up"
        self._changed = asyncio.Event()

    @property
    def awake(self) -> bool:
        """The agent's own code runs."""
        return self.state in ("up", "cut off")

    @property
    def reachable(self) -> bool:
        """The agent runs and hears its servers."""
        return self.state == "up"

    def turn(self, state: HostState) -> None:
        self.state = state
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def until_awake(self) -> None:
        while not self.awake:
            await self._changed.wait()

    async def until_reachable(self) -> None:
        while not self.reachable:
            await self._changed.wait()
