"""What a pass loads: one user as one statement saw it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

import msgspec
from sqlalchemy import ARRAY, Select, and_, any_, bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection

from core.crypto import Sealer
from core.domain.desired import Consent, Memory, Registered, Resources, SpecHashes, Tries, Wanted
from core.store.direct import Direct, Prepared
from core.store.fleet_control import is_paused
from core.store.interface import ChipRow, ContainerRow, ContainerSecrets, UserSnapshot
from core.store.rollouts import newest_release, seat_of
from core.store.schema import Id
from core.store.tables import chips, containers, placements, plans, rollout_seats, users
from core.store.upstreams import encoded_route, route_of

_NOTHING = Memory()
_NO_SECRETS = ContainerSecrets("", "")


OpenSecrets: TypeAlias = Callable[[bytes, bytes], ContainerSecrets]

_OPENED_KEPT: Final = 20_000


def opening(sealer: Sealer) -> OpenSecrets:
    """Opens sealed keys of containers (API, hook), which passes of the same users ask for over and over."""

    @lru_cache(_OPENED_KEPT)
    def opened(api_key: bytes, hook_key: bytes) -> ContainerSecrets:
        return ContainerSecrets(sealer.open(api_key), sealer.open(hook_key))

    return opened


async def load(direct: Direct, user_id: str, opened: OpenSecrets) -> UserSnapshot | None:
    """The container with its chips, oldest first; None without a container row. Raises SecretUnreadable."""
    return opened_snapshot((await direct.execute(_SNAPSHOT, {"user_id": user_id})).all(), opened)


def opened_snapshot(rows: Sequence[Any], opened: OpenSecrets) -> UserSnapshot | None:
    """The same from the rows of `of_user`. Raises SecretUnreadable."""
    if not rows:
        return None
    # One statement, so the container stands in every row; without chips there is one row of nulls.
    return _user(rows, opened(rows[0].sealed_api_key, rows[0].sealed_hook_key))


async def load_many(connection: AsyncConnection, user_ids: Sequence[str]) -> tuple[UserSnapshot, ...]:
    """As `load`, of several users by id, and without their secrets: for those who only look."""
    rows = (await connection.execute(_SNAPSHOTS, {"user_ids": list(user_ids)})).all()
    return tuple(
        _user(list(group), _NO_SECRETS) for _, group in itertools.groupby(rows, key=lambda row: row.user_id)
    )


def _user(rows: Sequence[Any], secrets: ContainerSecrets) -> UserSnapshot:
    return UserSnapshot(
        container=_container(rows[0], secrets),
        chips=tuple(_chip(row) for row in rows if row.chip_id is not None),
        seat=None if rows[0].seat_release is None else seat_of(rows[0], "seat_"),
        newest_release=rows[0].newest_release,
        fleet_paused=rows[0].fleet_paused,
    )


def _snapshot() -> Select[Any]:
    return (
        select(
            containers,
            users.c.email,
            plans.c.slug.label("plan_slug"),
            plans.c.cpu_mhz,
            plans.c.memory_mb,
            plans.c.memory_max_mb,
            plans.c.max_chips,
            plans.c.start_order,
            placements.c.allocation_id.label("current_allocation"),
            newest_release().label("newest_release"),
            is_paused().label("fleet_paused"),
            *(column.label(f"seat_{column.name}") for column in rollout_seats.c),
            *(column.label(f"chip_{column.name}") for column in _CHIP_COLUMNS),
            encoded_route().label("chip_route"),
        )
        .join_from(containers, users, users.c.id == containers.c.user_id)
        .join(plans, plans.c.slug == users.c.plan_slug)
        .outerjoin(placements, and_(placements.c.user_id == containers.c.user_id, placements.c.is_current))
        .outerjoin(rollout_seats, rollout_seats.c.user_id == containers.c.user_id)
        .outerjoin(chips, chips.c.user_id == containers.c.user_id)
        .order_by(containers.c.user_id, chips.c.created_at, chips.c.id)
    )


_CHIP_COLUMNS = (
    chips.c.id,
    chips.c.wanted,
    chips.c.generation,
    chips.c.intent_at,
    chips.c.created_at,
    chips.c.connected_at,
    chips.c.unlinked_generation,
    chips.c.tries_generation,
    chips.c.tries_failures,
    chips.c.tries_qr_rounds,
    chips.c.tries_last_at,
    chips.c.phase,
    chips.c.reason,
    chips.c.status,
    chips.c.status_since,
    chips.c.consent,
    chips.c.banned_at,
    chips.c.released_generation,
    chips.c.memory,
    chips.c.last_activity_at,
    chips.c.waiting_since,
)


def of_user() -> Select[Any]:
    """One row for each chip of user `user_id`, or one without; none without a container."""
    return _snapshot().where(containers.c.user_id == bindparam("user_id"))


_SNAPSHOT = Prepared(of_user())
_SNAPSHOTS = _snapshot().where(containers.c.user_id == any_(bindparam("user_ids", type_=ARRAY(Id))))


def _container(row: Any, secrets: ContainerSecrets) -> ContainerRow:
    registered = None
    if row.job_modify_index is not None:
        registered = Registered(
            SpecHashes(row.spec_hash, row.spec_restart_hash), row.job_modify_index, row.spec_release or ""
        )
    return ContainerRow(
        user_id=row.user_id,
        email=row.email,
        plan_slug=row.plan_slug,
        resources=Resources(row.cpu_mhz, row.memory_mb, row.memory_max_mb),
        max_chips=row.max_chips,
        generation=row.generation,
        pinned=row.pinned,
        deleted=row.deleted_at is not None,
        namespace=row.namespace,
        storage_id=row.storage_id,
        created_at=row.created_at,
        phase=row.phase,
        reason=row.reason,
        since=row.status_since,
        registered=registered,
        variables_hash=row.variables_hash,
        current_allocation=row.current_allocation,
        empty_since=row.empty_since,
        secrets=secrets,
        paused=row.paused,
        isolated_at=row.isolated_at,
        key_renewed_for=row.key_renewed_for,
        restart_generation=row.restart_generation,
        restart_allocation=row.restart_allocation_id,
        restarted_generation=row.restarted_generation,
        restart_mark=row.restart_mark,
        start_order=row.start_order,
    )


def _chip(row: Any) -> ChipRow:
    return ChipRow(
        id=row.chip_id,
        wanted=Wanted(row.chip_wanted),
        generation=row.chip_generation,
        intent_at=row.chip_intent_at,
        created_at=row.chip_created_at,
        connected_at=row.chip_connected_at,
        unlinked_generation=row.chip_unlinked_generation,
        tries=Tries(
            generation=row.chip_tries_generation,
            failures=row.chip_tries_failures,
            qr_rounds=row.chip_tries_qr_rounds,
            last_at=row.chip_tries_last_at,
        ),
        phase=row.chip_phase,
        reason=row.chip_reason,
        status=row.chip_status,
        since=row.chip_status_since,
        consent=Consent(row.chip_consent),
        banned=row.chip_banned_at is not None,
        released_generation=row.chip_released_generation,
        memory=memory_of(row.chip_memory),
        last_activity_at=row.chip_last_activity_at,
        waiting_since=row.chip_waiting_since,
        route=route_of(row.chip_route),
    )


def memory_of(stored: dict[str, Any]) -> Memory:
    """What column `memory` holds, as a value."""
    return msgspec.convert(stored, Memory) if stored else _NOTHING
