"""The fleet's own work: done by one daemon at a time, the holder of the lease `fleet`.

A duty is something that concerns all users at once: the sweep that compares the store with the world, the
janitor that looks for what nobody explains. Each is run by the holder alone, one after the other, with the
same listing:

    class Janitor:
        name = "janitor"     # in logs and metrics
        every_s = 300.0      # the pause between two runs
        async def run(self, held: HeldLease, listing: Listing) -> None: ...

- A run begins only while the lease is held, and is cut off after `DUTY_DEADLINE_S`. Before each effect it asks
  `held.allows(timeout_s)`, with the longest that the effect may take, and puts `async with held.effect():`
  around it: the lease may have been lost meanwhile, and then somebody else is the holder.
- What acts on one user claims that user's own lease besides (a `HeldLease` of its own), and looks again under it.
- `listing` was read just before; a list that failed stands in it as Unknown, and nothing follows from it.
- A DependencyError ends the run and is told; the next one comes at its time. Anything else is a bug: it is
  logged, and the other duties go on.
"""

from __future__ import annotations

from typing import Final, Protocol

from core.domain.sweep import Listing
from daemon.lease import HeldLease

KEY: Final = "fleet"
DUTY_DEADLINE_S: Final = 300.0


class Duty(Protocol):
    """One kind of work for the whole fleet."""

    @property
    def name(self) -> str: ...

    @property
    def every_s(self) -> float:
        """Seconds between the beginnings of two runs."""

    async def run(self, held: HeldLease, listing: Listing) -> None:
        """Do it once; see the module's own words."""
