"""The fleet as operators see it: its figures, and what the next passes would do."""

from __future__ import annotations

import itertools

from api.deadline import in_time
from api.schemas_operators import (
    FleetPaused,
    FleetPlan,
    FleetQueue,
    FleetSummary,
    HostSummary,
    PlanItem,
    RolloutSummary,
    SharedExit,
    SharedExitChip,
)
from api.services import Services
from core import policies
from core.domain.fleet_plan import plan_of
from core.domain.names import container_name
from core.store import fleet, fleet_control, fleet_plan
from core.store.fleet_control import FleetControl


async def summary(services: Services) -> FleetSummary:
    """Raises Unavailable."""
    found = await in_time(fleet.read(services.engine))
    size = services.settings.api.host_capacity
    hosts = [
        HostSummary(
            name=one.name,
            address=one.address,
            containers=one.containers,
            chips=one.chips,
            chips_connected=one.connected,
            capacity=size,
            ports_used=one.ports_used,
            ports_free=max(0, size - one.ports_used),
            memory_mb=one.memory_mb,
            observed_at=one.observed_at,
        )
        for one in found.hosts
    ]
    rollout = found.rollout
    return FleetSummary(
        containers=found.containers,
        chips=found.chips,
        reasons=found.reasons,
        users=found.users,
        at_rest=found.at_rest,
        hosts=hosts,
        capacity=sum(one.capacity for one in hosts),
        free=sum(one.ports_free for one in hosts),
        queue=FleetQueue(
            users_moving=found.users - found.at_rest,
            users_unseen=found.users_unseen,
            chips_waiting=found.chips_waiting,
            oldest_wait_s=found.oldest_wait_s,
            capacity_waiting=found.capacity_waiting,
        ),
        control=control_of(found.control),
        rollout=None
        if rollout is None
        else RolloutSummary(
            release=rollout.release,
            state=rollout.state,
            since=rollout.since,
            why=rollout.why,
            waiting=rollout.waiting,
            moving=rollout.moving,
            ok=rollout.ok,
            failed=rollout.failed,
        ),
        shared_exits=[
            SharedExit(
                exit_ip=exit_ip,
                chips=[
                    SharedExitChip(
                        chip_id=one.chip_id,
                        user_id=one.user_id,
                        alias=one.alias,
                        provider=one.provider,
                        label=one.label,
                        since=one.exit_since,
                    )
                    for one in chips
                ],
            )
            for exit_ip, chips in itertools.groupby(found.shared_exits, key=lambda one: one.exit_ip)
        ],
        swept_at=found.swept_at,
        oldest_look_at=found.oldest_look_at,
        observed_at=found.now,
    )


def control_of(control: FleetControl) -> FleetPaused:
    return FleetPaused(control.paused, control.since, control.by, control.reason)


async def plan(services: Services, *, after: str | None, limit: int) -> tuple[FleetPlan, str | None]:
    """A page of the plan, and the cursor of the next one, None for the last. Raises Unavailable.

    `limit`: users who are looked at for it, whatever is planned for each.
    """
    control = await in_time(fleet_control.read(services.engine))
    rows = await in_time(fleet_plan.page(services.engine, after=after, limit=limit + 1))
    more, rows = len(rows) > limit, rows[:limit]
    now, policy = services.clock.now(), policies.policy_of(services.settings.loop)
    items: list[PlanItem] = []
    acting = 0
    for row in rows:
        user_id = row.desired.container.user_id
        planned = plan_of(row.desired, row.look, row.starts_at, now, policy)
        if planned is None:
            acting += 1
            continue
        items += [
            PlanItem(
                user_id=user_id,
                container_name=container_name(user_id),
                chip_id=one.chip_id,
                action=one.action,
                reason=one.reason,
                not_before=one.not_before,
                observed_at=row.observed_at,
            )
            for one in planned
        ]
    cursor = rows[-1].desired.container.user_id if more else None
    return FleetPlan(paused=control.paused, items=items, acting=acting), cursor
