"""One line when a dependency goes away and one when it returns, however many passes notice."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime
from typing import TypeVar

import structlog

from core.clock import Clock
from core.domain import facts
from core.domain.facts import Fact, Known, Unknown
from core.errors import DependencyError, Missing, Rejected

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class Outages:
    """Which systems are away at the moment, as seen by all passes of this process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def __contains__(self, system: str) -> bool:
        return system in self._since

    def away_s(self) -> dict[str, float]:
        """The systems that are away, with for how many seconds."""
        now = self._clock.monotonic()
        return {system: now - since for system, since in self._since.items()}

    def failed(self, system: str, error: DependencyError) -> None:
        """A call failed. A refusal is the operator's business, hence an error and not a warning."""
        if system in self._since:
            return
        self._since[system] = self._clock.monotonic()
        log = _log.error if isinstance(error, Rejected) else _log.warning
        log("dependency_away", system=system, code=error.code, error=error.message)

    def worked(self, system: str) -> None:
        """A call was answered."""
        if self._since and (since := self._since.pop(system, None)) is not None:
            away_s = round(self._clock.monotonic() - since, 3)
            _log.info("dependency_returned", system=system, away_s=away_s)

    async def fact(self, read: Awaitable[T], system: str, why: str) -> Fact[T]:
        """What `read` gives, Missing where the system says that there is no such thing, else Unknown(why)."""
        try:
            answer: T | DependencyError = await read
        except DependencyError as error:
            answer = error
        return self.fact_of(answer, system, why, self._clock.now())

    def fact_of(self, answer: T | BaseException, system: str, why: str, at: datetime) -> Fact[T]:
        """The same of an answer that came already, or of what was raised in its place.

        Raises what is no error of a dependency.
        """
        if isinstance(answer, BaseException):
            if isinstance(answer, Missing):
                self.worked(system)
                return facts.Missing(at)
            if isinstance(answer, DependencyError):
                self.failed(system, answer)
                return Unknown(why)
            raise answer
        self.worked(system)
        return Known(answer, at)
