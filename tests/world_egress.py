"""The chips' way out in the pure world: providers, labels, exits, and what a host's guard takes of a session."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from core.domain import actions as act
from core.domain.desired import Desired, DesiredChip
from core.domain.egress_errors import EgressError
from core.domain.facts import ClientStatus, WahaStatus
from core.domain.names import session_name
from core.domain.policy import GUARD, Policy
from core.domain.routes import ChipRoute, LabelWhy
from tests.world_rows import Allocation, Session


class WayOut:
    """Part of `tests.world.World`, which has all that is named here."""

    now: datetime
    policy: Policy
    desired: dict[str, Desired]
    allocations: list[Allocation]
    sessions: dict[str, dict[str, Session]]
    provider_gone: bool
    reading_fails: EgressError | None
    unrouted_starts: list[str]

    def _edit(self, user: str, chip: str, *, bump: bool = False, **changes: object) -> None:
        raise NotImplementedError

    @property
    def guarded(self) -> bool:
        return self.policy.egress == GUARD

    def speaking(self, user: str) -> str | None:
        """The allocation whose container answers for the user."""
        passing = [a.id for a in self.allocations if a.user == user and a.passing]
        return passing[-1] if passing else None

    def reached(self, user: str) -> str | None:
        """The allocation that a call on its way reaches: the check of its container may just have failed."""
        running = [a.id for a in self.allocations if a.user == user and a.client is ClientStatus.RUNNING]
        return self.speaking(user) or (running[-1] if running else None)

    def chip_of(self, user: str, chip: str) -> DesiredChip | None:
        entry = self.desired.get(user)
        return next((c for c in entry.chips if c.id == chip), None) if entry else None

    def routed(self, user: str, chip: str, session: Session) -> bool:
        known = self.chip_of(user, chip)
        if known is None or known.route is None or session.proxy is None:
            return False
        return session.proxy == (self.speaking(user), known.route.generation)

    def write_proxy(self, user: str, chip: str, session: Session) -> None:
        known = self.chip_of(user, chip)
        if not self.guarded or known is None:
            return
        assert known.route is not None, "a config was written for a chip that has no way out"
        allocation = self.reached(user)
        session.proxy = (allocation, known.route.generation) if allocation else None

    def is_taken(self, user: str, session: Session) -> bool:
        """Whether the guard of its host takes it: any generation, of this allocation alone."""
        return not self.guarded or (session.proxy is not None and session.proxy[0] == self.reached(user))

    def label_action(self, user: str, action: act.AssignLabel | act.ReadExit | act.ReleaseLabel) -> None:
        chip = self.chip_of(user, action.chip_id)
        if chip is None:
            return
        route = chip.route
        match action:
            case act.AssignLabel(why=why):
                if not self.provider_gone:
                    self._edit(user, chip.id, route=self._assigned(chip.id, route, why))
            case act.ReadExit() if route is not None:
                failure = self.reading_fails
                change: dict[str, object] = {"checked_at": self.now, "failure": failure}
                if failure is None:
                    change |= {"exit_ip": f"exit-of-{route.label}", "exit_at": self.now, "failures": 0}
                else:
                    change["failures"] = route.failures + 1
                self._edit(user, chip.id, route=msgspec.structs.replace(route, **change))
            case act.ReleaseLabel() if route is not None:
                self._edit(user, chip.id, route=msgspec.structs.replace(route, released=True))
            case _:
                pass

    def _assigned(self, chip: str, route: ChipRoute | None, why: LabelWhy) -> ChipRoute:
        if route is not None and route.released and why is LabelWhy.FIRST:
            return msgspec.structs.replace(route, released=False, unusable=None)
        generation = route.generation + 1 if route else 1
        return ChipRoute("p", "s", generation, f"{chip[-4:]}.{generation}", assigned_at=self.now)

    # --- what happens to ways out behind everybody's back ------------------------------------------------
    def trouble(self, user: str, chip: str, what: str) -> None:
        """`what`: one of `TROUBLES`."""
        known = self.chip_of(user, chip)
        if known is None or known.route is None:
            return
        changes: dict[str, dict[str, object]] = {
            "gone": {"unusable": EgressError.NO_UPSTREAM},
            "exhausted": {"unusable": EgressError.TRAFFIC_EXHAUSTED},
            "well": {"unusable": None, "others_work": False, "shares_exit": False},
            "asked": {"requested": True},
            "shared": {"shares_exit": True},
            "alone": {"others_work": True},
            "old": {"assigned_at": self.now - timedelta(hours=2)},
        }
        self._edit(user, chip, route=msgspec.structs.replace(known.route, **changes[what]))

    def forget_proxies(self, user: str) -> None:
        """Somebody writes another config over ours."""
        for session in self.sessions.get(user, {}).values():
            session.proxy = None

    def note_start(self, user: str, action: act.ChipAction) -> None:
        """Whoever starts a session whose config is not its allocation's is remembered."""
        session = self.sessions.get(user, {}).get(session_name(action.chip_id))
        started = session is not None and session.status is not WahaStatus.STOPPED
        if session is not None and started and not self.is_taken(user, session):
            self.unrouted_starts.append(action.chip_id)


TROUBLES = ("gone", "exhausted", "well", "well", "asked", "shared", "alone", "old")
