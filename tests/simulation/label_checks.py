"""What must hold of ways out: no start without one, labels of their own, and none that changes without a rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.domain.egress_errors import EgressError
from core.domain.facts import WahaStatus
from core.domain.routes import ChipRoute, LabelWhy
from tests.simulation.daemons import SKEW_S, Daemon
from tests.simulation.waha import proxy_of
from tests.simulation.world import World, short

if TYPE_CHECKING:
    from tests.simulation.hosts import Container
    from tests.simulation.waha import Stored

_HOUR_S = 3600.0
_TEN_MINUTES_S = 600.0
_OF_ACCOUNT = (EgressError.TRAFFIC_EXHAUSTED, EgressError.PROXY_AUTH, EgressError.THREADS_EXHAUSTED)


class LabelChecks:
    """Raises nothing: a broken rule ends the run through `World.violate`."""

    def __init__(self, world: World) -> None:
        self.world = world

    # --- sessions ---------------------------------------------------------------------------------------
    def lands(
        self,
        what: str,
        method: str,
        args: tuple[Any, ...],
        container: Container,
        kept: Stored | None,
        chip: Any,
        sessions_at: float,
    ) -> None:
        """WAHA accepts an effect. `kept`: the session as it was; `sessions_at`: when the pass looked at it."""
        if not self.world.egress.guarded or (method == "create_session" and kept is not None):
            return  # nothing happens to one that is there already
        live = container.sessions.get(args[0])
        runs = live is not None and live.status is not WahaStatus.STOPPED
        if method in ("create_session", "update_session"):
            seen = live is not None and live.since <= sessions_at
            self._written(what, container, kept, proxy_of(args[1]), runs=runs and seen)
        starts = method in ("start", "restart") or (runs and method in ("update_session", "logout"))
        if starts or (method == "create_session" and args[2]):
            self._started(what, container, kept, chip, sessions_at)

    def _started(
        self, what: str, container: Container, kept: Stored | None, chip: Any, sessions_at: float
    ) -> None:
        self.world.counts["guarded_starts"] += 1
        # What was written over ours since the look is not held against the pass: the guard refuses it.
        known = kept is not None and kept.proxy_at <= sessions_at
        if kept is not None and known and not self.world.egress.takes(container, kept.proxy):
            self._fail(f"fail closed: {what}, whose config is not its allocation's")
        route: ChipRoute | None = chip.route
        if route is None or route.released:
            self._fail(f"fail closed: {what}, which has no label")
        elif route.unusable is not None or route.failure is not None:
            self._fail(f"fail closed: {what}: {route.unusable or route.failure}")
        elif route.checked_at is None or self._age_s(route.checked_at) > _HOUR_S + SKEW_S + 60.0:
            self._fail(f"fail closed: {what}, whose exit was read at {route.checked_at}")

    def _written(
        self, what: str, container: Container, kept: Stored | None, proxy: Any, *, runs: bool
    ) -> None:
        if not self.world.egress.takes(container, proxy):
            self._fail(f"fail closed: {what} with a config that the guard does not take")
        if runs and kept is not None and kept.proxy != proxy:
            self._fail(f"fail closed: {what}, which runs, with another way out")

    # --- labels -----------------------------------------------------------------------------------------
    def assigned(self, daemon: Daemon, args: tuple[Any, ...], result: Any) -> None:
        """`args`: as the store got them; what the pass knew of the chip is in its snapshot."""
        lease, chip_id, why = args
        record = daemon.record(lease.key)
        if not isinstance(result, ChipRoute) or record is None or record.snapshot is None:
            return
        self.world.counts[f"labels.{why.value}"] += 1
        if record.snapshot.fleet_paused:
            self._fail(f"pause: chip {short(chip_id)} gets a label, for {why.value}")
        live = [(row.provider, row.label) for row in self.world.store.labels.values() if row.is_live]
        if len(live) != len(set(live)):
            self._fail(f"labels: chip {short(chip_id)} got one that another live chip has")
        before = next((chip.route for chip in record.snapshot.chips if chip.id == chip_id), None)
        if before is None:
            return
        changed = (before.provider, before.label) != (result.provider, result.label)
        if before.released:
            return  # whether its old one could be taken up is the store's own contract
        if not changed:
            self._fail(f"labels: chip {short(chip_id)} was given the one that it has, for {why.value}")
        elif not self._may_change(before, why):
            self._fail(f"labels: chip {short(chip_id)} got another one, for {why.value}: {before}")
        self.world.egress.label_changed(chip_id)

    def _may_change(self, before: ChipRoute, why: LabelWhy) -> bool:
        match why:
            case LabelWhy.REQUESTED:
                return before.requested
            case LabelWhy.MOVED:
                return before.unusable is EgressError.NO_UPSTREAM
            case LabelWhy.SHARED_EXIT:
                return before.shares_exit
            case LabelWhy.FAILING:
                alone = before.failures >= 3 and before.others_work and before.failure not in _OF_ACCOUNT
                return alone and self._age_s(before.assigned_at) >= _TEN_MINUTES_S - SKEW_S - 60.0
            case LabelWhy.FIRST:
                return False

    def released(self, daemon: Daemon, args: tuple[Any, ...], result: Any) -> None:
        chip = self.world.store.chips.get(args[1])
        record = daemon.record(args[0].key)
        if chip is None or record is None or record.snapshot is None:
            return
        seen = next((one for one in record.snapshot.chips if one.id == chip.id), None)
        if seen is not None and seen.wanted.value == "connected":
            self._fail(f"labels: that of chip {short(chip.id)} is given back, which is wanted connected")

    def left(self, chip: Any) -> list[str]:
        """What of a chip's label is not as it should be in the end."""
        row = self.world.store.labels.get(chip.id)
        if not self.world.egress.guarded or chip.banned_at is not None:
            return []
        live = row is not None and row.is_live
        if live != (chip.wanted.value == "connected"):
            return [f"chip {short(chip.id)}, wanted {chip.wanted.value}, has label {row}"]
        if row is not None and live and row.requested_generation > row.generation:
            return [f"chip {short(chip.id)} never got the label that was asked for"]
        return []

    def _age_s(self, moment: Any) -> float:
        return float((self.world.moment() - moment).total_seconds())

    def _fail(self, sentence: str) -> None:
        self.world.violate(sentence)
