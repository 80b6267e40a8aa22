"""Keeps every source alive: one that breaks or ends is started again, and that it is away is told once."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Never, Protocol

import structlog

from core.clock import Clock
from core.domain import backoff
from core.errors import DependencyError
from daemon.ended import end_if_told

_log = structlog.get_logger(__name__)

_BASE_S = 0.2
_CAP_S = 5.0


class Source(Protocol):
    """Turns one kind of news into keys on the queue.

    `quiet_s`: for how long a healthy one may give no sign of life at most.
    """

    @property
    def name(self) -> str: ...

    @property
    def quiet_s(self) -> float: ...

    async def listen(self, alive: Callable[[], None]) -> None:
        """Run until something breaks; call `alive` at each sign of life. May raise anything."""


class Relists(Protocol):
    """Who lists everything when a source may have missed something; see `daemon.fleet.Fleet`."""

    def relist(self, *, takeover: bool = False) -> None: ...


class Supervisor:
    """Runs one source for ever."""

    def __init__(self, source: Source, clock: Clock, random: Random) -> None:
        self.name = source.name
        self.quiet_s = source.quiet_s
        self.restarts = 0
        self._source = source
        self._clock = clock
        self._random = random
        self._last_seen: float | None = None
        self._failures = 0

    def age_s(self) -> float | None:
        """Seconds since its last sign of life, None before the first."""
        return None if self._last_seen is None else self._clock.monotonic() - self._last_seen

    @property
    def too_old(self) -> bool:
        """Whether it has been silent for longer than a healthy one is, or was never heard of."""
        age_s = self.age_s()
        return age_s is None or age_s > self.quiet_s

    @property
    def away(self) -> bool:
        """Whether it broke and gave no sign of life since."""
        return self._failures > 0

    async def run(self) -> Never:
        """Never returns; ends only by being cancelled."""
        log = _log.bind(source=self.name)
        while True:
            try:
                await self._source.listen(self._alive)
                log.info("source_ended")
            except DependencyError as error:
                if self._failures == 0:
                    log.warning("source_interrupted", code=error.code, error=error.message)
            except Exception:
                if self._failures == 0:
                    log.exception("source_broke")
            end_if_told()
            self._failures += 1
            self.restarts += 1
            full_s = backoff.delay(self._failures, _BASE_S, _CAP_S)
            # Spread, so that many daemons do not return to a restarted server in one instant.
            await self._clock.sleep(full_s * self._random.uniform(0.5, 1.0))

    def _alive(self) -> None:
        self._last_seen = self._clock.monotonic()
        if self._failures:
            _log.info("source_resumed", source=self.name, failures=self._failures)
            self._failures = 0
