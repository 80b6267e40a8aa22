"""What a client does about its servers' silence: it sends heartbeats, and stops what must not outlive them.

Follows client/heartbeatstop.go and the heartbeat loop of Nomad 1.10.5: an allocation with
`disconnect.stop_on_client_after` is stopped that long after the last heartbeat that was answered. The timer is
armed when an allocation arrives or is restored, not by an in-place update.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sandbox.nomad_double.clock import NS_PER_S, Clock
from sandbox.nomad_double.host_agent import HostAgent
from sandbox.nomad_double.jobspec import group_of
from sandbox.nomad_double.model import Allocation


def stop_after_ns(alloc: Allocation) -> int:
    """`stop_on_client_after` of an allocation in nanoseconds, 0 for none."""
    group = group_of(alloc.job, alloc.task_group)
    disconnect = (group or {}).get("Disconnect") or {}
    return int(disconnect.get("StopOnClientAfter") or 0)


class ClientHeartbeat:
    """The two loops of one client. `beat` tells the servers and returns the TTL in seconds they grant."""

    def __init__(
        self,
        clock: Clock,
        agent: HostAgent,
        speed: float,
        beat: Callable[[], float],
        stop: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._agent = agent
        self._speed = speed
        self._beat = beat
        self._stop = stop
        self._intervals: dict[str, float] = {}
        self._last_ok_ns = clock.time_ns()
        self._news = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, as an agent that has just started: it counts silence from now."""
        self._last_ok_ns = self._clock.time_ns()
        self._loops = [asyncio.create_task(self._beat_for_ever()), asyncio.create_task(self._watch())]

    def arm(self, alloc: Allocation) -> None:
        """Watch over an allocation that arrived or was restored."""
        after_ns = stop_after_ns(alloc)
        if after_ns:
            self._intervals[alloc.id] = after_ns / NS_PER_S / self._speed
            self._news.set()

    def disarm(self, alloc_id: str) -> None:
        self._intervals.pop(alloc_id, None)

    async def end(self) -> None:
        loops, self._loops = self._loops, []
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)

    def kill(self) -> None:
        """The agent is gone, its timers with it."""
        for loop in self._loops:
            loop.cancel()
        self._loops = []
        self._intervals.clear()

    async def _beat_for_ever(self) -> None:
        while True:
            await self._agent.until_reachable()
            ttl_s = self._beat()
            self._last_ok_ns = self._clock.time_ns()
            self._news.set()
            await self._clock.sleep(ttl_s)

    async def _watch(self) -> None:
        while True:
            self._news.clear()
            if not self._intervals:
                await self._news.wait()
                continue
            silent_s = (self._clock.time_ns() - self._last_ok_ns) / NS_PER_S
            left_s = min(self._intervals.values()) - silent_s
            if left_s > 0:
                await self._sleep_or_news(left_s)
                continue
            if not self._agent.awake:
                await self._agent.until_awake()
                continue
            for alloc_id in [key for key, after_s in self._intervals.items() if after_s <= silent_s]:
                del self._intervals[alloc_id]
                self._stop(alloc_id)

    async def _sleep_or_news(self, seconds: float) -> None:
        timer = asyncio.create_task(self._clock.sleep(seconds))
        news = asyncio.create_task(self._news.wait())
        try:
            await asyncio.wait({timer, news}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            news.cancel()
