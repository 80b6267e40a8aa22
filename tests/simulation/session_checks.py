"""What must hold of WAHA's sessions, asked where WAHA accepts an effect on one; see `invariants.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.domain.desired import Wanted
from core.domain.facts import WahaStatus
from core.domain.names import SESSION_PREFIX
from tests.simulation.chip_checks import ChipChecks
from tests.simulation.daemons import KNOWN, SKEW_S, Daemon
from tests.simulation.label_checks import LabelChecks
from tests.simulation.pacing import Starts
from tests.simulation.world import World, short

if TYPE_CHECKING:
    from tests.simulation.hosts import Container
    from tests.simulation.waha import Live

_ON_ITS_WAY_S = 30.0
_STARTS = frozenset({"start", "restart", "update_session", "logout"})


class SessionChecks:
    """Raises nothing: a broken rule ends the run through `World.violate`.

    Attributes:
        looked_at: when the last pass that wrote its status saw the sessions of a user.
    """

    def __init__(self, world: World, labels: LabelChecks, starts: Starts) -> None:
        self.world = world
        self.chips = ChipChecks(world)
        self.labels = labels
        self.starts = starts
        self.looked_at: dict[str, float] = {}

    def started(self, container: Container, name: str) -> None:
        most = self.world.store.users[container.user].plan.max_chips
        running = self.world.waha.running(container)
        if running > most:
            self._fail(f"P4: {running} sessions of user {short(container.user)} run, the plan allows {most}")

    def lands(self, daemon: Daemon, container: Container, method: str, args: tuple[Any, ...]) -> None:
        user, name = container.user, args[0]
        if daemon.is_janitor and name[len(SESSION_PREFIX) :] in self.world.store.chips:
            self._fail(f"janitor: {daemon.name} does {method} on session {short(name)}, whose chip is there")
        live = container.sessions.get(name)
        status = live.status if live is not None else WahaStatus.STOPPED
        # A config that is written to a stopped session starts nothing.
        starts = method in _STARTS and (method != "update_session" or status is not WahaStatus.STOPPED)
        starts |= method == "create_session" and args[2]
        if starts:
            self.starts.arrives(name[len(SESSION_PREFIX) :], container.host.name)
        record = daemon.record(user)
        if record is None or record.snapshot is None:
            return
        # What the daemon could have seen: states that it was in before the daemon looked.
        seen = live is not None and live.since <= record.sessions_at
        chip = next((c for c in record.snapshot.chips if SESSION_PREFIX + c.id == name), None)
        what = f"{daemon.name} does {method} on chip {short(name)} of user {short(user)}"
        if record.sessions != KNOWN:
            self._fail(f"P5: {what} without having seen its sessions")
        if method == "delete" and chip is not None and chip.wanted is not Wanted.DELETED:
            self._fail(f"intent: {what}, which its owner wants {chip.wanted.value}")
        if chip is not None:
            stored = self.world.waha.storage.get(self.world.owners.namespace(user), {}).get(name)
            paired = stored is not None and stored.paired
            self.chips.lands(what, method, args, chip, live, paired=paired, peers=record.peers)
            kept = self.world.waha.kept(container).get(name)
            self.labels.lands(what, method, args, container, kept, chip, record.sessions_at)
        connected = status is WahaStatus.WORKING and seen
        held_up = chip is not None and (chip.banned or chip.phase == "quarantined")
        if (
            method == "stop"
            and connected
            and (chip is None or chip.wanted is Wanted.CONNECTED)
            and not held_up
        ):
            if live is not None and live.deaf_at is not None and self.world.egress.guarded:
                self.chips.deaf_restart(what, name)  # whose way out is written anew before it starts again
            else:
                self._fail(f"intent: {what}, which is connected and wanted")
        if method in ("restart", "update_session", "logout"):
            if connected and live is not None and live.deaf_at is not None and method == "restart":
                self.chips.deaf_restart(what, name)
            elif connected:
                self._fail(f"intent: {what}, which is connected")
            young = live is not None and self.world.now - live.since < _ON_ITS_WAY_S
            on_its_way = status is WahaStatus.STARTING and seen and young
            if on_its_way and method != "logout" and not self._worked_unnoticed(user, chip, live):
                self._fail(f"intent: {what}, which is on its way")
        if starts and method != "logout":
            held = self.world.store.chips.get(name[len(SESSION_PREFIX) :])
            if held is not None and chip is not None:
                spent = held.observed.tries.last_at
                age = None if spent is None else (self.world.moment() - spent).total_seconds()
                if age is None or age > 60.0 + SKEW_S:
                    self._fail(f"tries: {what} before its cost was recorded")

    def _worked_unnoticed(self, user: str, chip: Any, live: Live | None) -> bool:
        """Whether it looks as if it were on its way for long: no look fell into its last work."""
        known = [] if chip is None else [at for at in (chip.tries.last_at, chip.since) if at is not None]
        if not known or (self.world.moment() - max(known)).total_seconds() < _ON_ITS_WAY_S + SKEW_S:
            return False
        worked_at = None if live is None else live.worked_at
        return worked_at is not None and self.looked_at.get(user, -1.0) < worked_at

    def _fail(self, sentence: str) -> None:
        self.world.violate(sentence)
