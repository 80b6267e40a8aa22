"""A chip's way through the pure world, with what passes keep of it, as an explanation gets it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from core.domain import actions as act
from core.domain.actions import ChipStatus, Decision
from core.domain.decide import decide
from core.domain.desired import DesiredChip
from core.domain.evidence import Evidence, evidence_of, merged
from core.domain.explain import Explanation, explain
from core.domain.facts import Observation, WahaStatus
from core.domain.policy import Policy
from core.domain.story import ContainerStory, Story
from core.domain.views import StoredChip, StoredContainer
from daemon.outcome import Result, Verdict, told, unsuccessful
from tests.passes import CHIPS, POLICY, USERS, hosts
from tests.world import World
from tests.world_rows import Session

USER, CHIP = USERS[0], CHIPS[0]


class Way:
    """One user with a chip. Passes go as the daemon's do; a test reaches into the world between them.

    Attributes:
        alter: changes what is seen.
        refuse: ends an action without its effect.
        columns: of the chip, as another part of the system would have written them.
    """

    def __init__(
        self, *, ports: int = 4, count: int = 3, policy: Policy = POLICY, max_chips: int = 10
    ) -> None:
        self.world = World(hosts(ports, count))
        self.policy = policy
        self.alter: Callable[[Observation], Observation] = lambda seen: seen
        self.refuse: Callable[[act.Action], Result | None] = lambda action: None
        self.before: Callable[[], None] = lambda: None
        self.columns: dict[str, Any] = {}
        self.evidence: Evidence | None = None
        self.told: dict[str, ChipStatus] = {}
        self.looked_at = self.world.now
        self.max_chips = max_chips
        self.add(CHIP)

    def add(self, chip: str) -> None:
        self.world.add_chip(USER, chip, max_chips=self.max_chips)

    @property
    def session(self) -> Session:
        return self.world.sessions[USER][f"chip_{CHIP}"]

    @property
    def host(self) -> str:
        return next(a.host for a in reversed(self.world.allocations) if a.user == USER)

    def one_pass(self) -> None:
        world = self.world
        self.before()
        desired = world.desired[USER]
        seen = self.alter(world.observe(USER))
        decision = decide(desired, seen, world.now, self.policy)
        results: list[Result] = []
        for action in decision.actions:
            # As the daemon: what comes after a container's action that failed waits for the next pass.
            blocked = any(result.verdict is not Verdict.DONE for result in results)
            results.append(Result(action, Verdict.DEFERRED, "blocked") if blocked else self._done(action))
        container, chips = told(decision, results, desired)
        self.evidence = merged(self.evidence, evidence_of(desired, seen, unsuccessful(results)), world.now)
        world.write(USER, msgspec.structs.replace(decision, container=container, chips=chips))
        self.told |= chips
        self.looked_at = world.now

    def _done(self, action: act.Action) -> Result:
        refused = self.refuse(action)
        if refused is not None:
            return refused
        self.world.apply(USER, action)
        return Result(action, Verdict.DONE)

    def run(self, passes: int = 5, step_s: float = 2.0) -> Way:
        for _ in range(passes):
            self.one_pass()
            self.world.tick(step_s)
        self.one_pass()
        return self

    def connect(self) -> Way:
        """Up to a scanned and working session."""
        self.run(8)
        assert self.session.status is WahaStatus.SCAN_QR_CODE
        self.world.scan(USER, CHIP)
        return self.run(2)

    def chip(self, chip_id: str = CHIP) -> DesiredChip:
        return next(chip for chip in self.world.desired[USER].chips if chip.id == chip_id)

    def story(self, chip_id: str = CHIP) -> Story:
        world, row = self.world, self.chip(chip_id)
        container, status = world.desired[USER].container, world.statuses[USER]
        last = self.told.get(chip_id)
        stored = StoredChip(
            id=chip_id,
            user_id=USER,
            alias="vendas",
            wanted=row.wanted,
            generation=row.generation,
            observed_generation=row.generation if last else 0,
            phase=row.phase or "queued",
            reason=row.reason,
            status=row.status or "WAITING_QR",
            waha_status=last.waha_status if last else None,
            since=row.since or row.created_at,
            started_at=row.tries.last_at,
            phone_number=None,
            health_score=0,
            unlinked=row.unlinked_generation is not None,
            annotations={},
            created_at=row.created_at,
            updated_at=row.intent_at,
            connected_at=row.connected_at,
            last_activity_at=None,
            container=StoredContainer(status.phase, status.reason, status.port, status.node_name),
        )
        return Story(
            chip=msgspec.structs.replace(stored, **self.columns),
            tries=row.tries,
            max_chips=self.max_chips,
            container=ContainerStory(
                phase=status.phase,
                reason=status.reason,
                since=container.since or row.created_at,
                looked_at=self.looked_at,
                at_rest=status.at_rest,
                answers=status.endpoint is not None,
                allocation_id=status.allocation_id,
                key_renewed_for=container.key_renewed_for,
            ),
            evidence=self.evidence,
        )

    def explained(self, chip_id: str = CHIP) -> Explanation:
        return explain(self.story(chip_id), self.world.now, self.policy)


def refusing(
    kind: type[act.Action] | tuple[type[Any], ...], verdict: Verdict, code: str
) -> Callable[[act.Action], Result | None]:
    """Ends actions of `kind` with `verdict`."""
    return lambda action: Result(action, verdict, code) if isinstance(action, kind) else None


__all__ = ["CHIP", "USER", "Decision", "Way", "refusing"]
