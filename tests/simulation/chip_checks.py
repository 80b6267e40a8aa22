"""What must hold of single chips, asked where WAHA accepts an effect on one.

The rules are told here anew and in other words than in the product: nothing of `core.domain.ladder`,
`breaker`, `peers` or `rhythm` is used.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

from core.domain.desired import Consent, Wanted
from core.domain.facts import Peers, WahaStatus
from tests.simulation.waha import Live
from tests.simulation.world import World

_QR_ROUNDS = 2
_RUNGS = 3
_DEAF_RESTARTS = 3
# Starts that nobody pressed for: eight, a try for each five minutes' pause, restarts for deafness, and one that
# was under way.
_STARTS, _STARTS_WITHIN_S = 14, 600.0
_STARTING = frozenset({"start", "restart", "update_session"})


class ChipChecks:
    """Raises nothing: a broken rule ends the run through `World.violate`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rounds: defaultdict[tuple[str, int], int] = defaultdict(int)
        self.starts: defaultdict[str, deque[float]] = defaultdict(deque)
        self.deaf: defaultdict[str, int] = defaultdict(int)

    def lands(
        self,
        what: str,
        method: str,
        args: tuple[Any, ...],
        chip: Any,
        live: Live | None,
        *,
        paired: bool,
        peers: Peers | None,
    ) -> None:
        """`chip`: as the pass loaded it; `what`: who does what to whom, for people. `paired`: truly.

        `peers`: what the pass was told of others' chips; None when it did not ask.
        """
        runs = live is not None and live.status is not WahaStatus.STOPPED
        starts = method in _STARTING and (method != "update_session" or runs)
        starts |= (method == "create_session" and args[2]) or (method == "logout" and runs)
        if method == "logout":
            self._logout(what, chip, paired=paired, peers=peers)
        if starts:
            self._start(what, method, chip, live, paired=paired)

    def _logout(self, what: str, chip: Any, *, paired: bool, peers: Peers | None) -> None:
        consent = chip.consent
        if chip.wanted is not Wanted.CONNECTED or consent is Consent.NONE:
            self._fail(f"consent: {what}, which is wanted {chip.wanted.value} with consent {consent.value}")
        lost = chip.connected_at is None or chip.unlinked_generation is not None
        if lost or not paired:
            return
        self.world.counts[f"logout.{consent.value}"] += 1
        if chip.connected_at > chip.intent_at:
            self._fail(f"consent: {what}, which was connected since its owner consented")
        if consent is Consent.FRESH:
            return
        if chip.tries.generation != chip.generation or chip.tries.failures < _RUNGS:
            self._fail(f"consent: {what} after {chip.tries.failures} tries of this press")
        if peers is None:
            self._fail(f"consent: {what} without knowing how others fare")
        elif any(g.lately >= max(1, 0.02 * (g.failing + g.connected)) for g in (peers.host, peers.engine)):
            self._fail(f"consent: {what} while others fail too: {peers}")

    def _start(self, what: str, method: str, chip: Any, live: Live | None, *, paired: bool) -> None:
        if chip.wanted is not Wanted.CONNECTED or chip.banned or chip.phase == "quarantined":
            # A release is told by the row; until the next pass its phase is the old one.
            held = chip.memory.breaker.quarantined_generation
            if chip.phase != "quarantined" or (held is not None and chip.released_generation <= held):
                state = "banned" if chip.banned else f"{chip.wanted.value} {chip.phase}"
                self._fail(f"intent: {what}, which is {state}")
        needs_pairing = chip.connected_at is None or chip.unlinked_generation is not None
        # One that was scanned in the moment in which it was stopped has its credentials, and shows no code.
        if (needs_pairing and not paired) or method == "logout":
            self.rounds[chip.id, chip.generation] += 1
            if self.rounds[chip.id, chip.generation] > _QR_ROUNDS:
                self._fail(f"QR budget: {what}, start {self.rounds[chip.id, chip.generation]} of one wish")
            return
        fresh = chip.tries.generation != chip.generation or chip.tries.last_at is None
        if chip.consent is not Consent.NONE and (fresh or 0 < chip.tries.failures < _RUNGS):
            return  # it was pressed for: a press buys its ladder
        if method != "restart" or live is None or live.deaf_at is None:
            self._storm(what, chip.id)

    def _storm(self, what: str, chip_id: str) -> None:
        starts, now = self.starts[chip_id], self.world.now
        starts.append(now)
        while starts[0] < now - _STARTS_WITHIN_S:
            starts.popleft()
        if len(starts) > _STARTS:
            self._fail(f"breaker: {what}, start {len(starts)} in {_STARTS_WITHIN_S:.0f} s")

    def deaf_restart(self, what: str, name: str) -> None:
        """A session that says WORKING is restarted: it is deaf, and its budget lasts."""
        self.deaf[name] += 1
        self.world.counts["deaf.restarts"] += 1
        if self.deaf[name] > _DEAF_RESTARTS:
            self._fail(f"deaf: {what}, restart {self.deaf[name]}")

    def _fail(self, sentence: str) -> None:
        self.world.violate(sentence)
