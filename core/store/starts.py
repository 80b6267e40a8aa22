"""Start tokens on PostgreSQL: one short transaction an ask, one ask at a time in the whole fleet.

The row of the fleet's bucket is locked first, since every start draws on it: whoever holds it may read and
write all buckets and the line. Times are the server's `clock_timestamp()`, read once the lock is held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import (
    ARRAY,
    Integer,
    Select,
    Text,
    all_,
    and_,
    any_,
    bindparam,
    column,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.domain.desired import Tries, Wanted
from core.domain.pacing import (
    COMING_FROM,
    FLEET,
    Ask,
    Bucket,
    Counts,
    Pace,
    Turns,
    Waits,
    admit,
    in_order,
    waits_of,
)
from core.domain.states import ChipPhase
from core.store import direct, leases
from core.store.direct import Direct, Prepared, json_rows
from core.store.fleet_control import is_paused
from core.store.interface import Lease
from core.store.tables import chips, containers, labels, plans, start_buckets, start_queue, users

# A bucket that nobody has drawn on for so long is full, as one that is not there.
_FORGOTTEN_AFTER_S: Final = 86_400

_CLOCK: Final = func.clock_timestamp()
_HELD: Final = leases.held()
# The lease first: the condition does not depend on the bucket's row, so it is known before that is asked for.
_LOCK: Final = Prepared(
    select(start_buckets.c.key)
    .where(start_buckets.c.key == FLEET, exists(select(_HELD.c.key)))
    .with_for_update(of=start_buckets)
)
_MAKE: Final = Prepared(
    insert(start_buckets)
    .values(key=FLEET, tokens=bindparam("burst"), refilled_at=_CLOCK)
    .on_conflict_do_nothing()
)
_COUNT: Final = select(func.count().label("line")).select_from(start_queue)
_LINE: Final = Prepared(_COUNT)
_STANDING: Final = Prepared(
    select(
        _CLOCK.label("now"),
        start_buckets.c.key,
        start_buckets.c.tokens,
        start_buckets.c.refilled_at,
        _COUNT.scalar_subquery().label("line"),
        is_paused().label("fleet_paused"),
    )
)
_CHIP_IDS: Final = ARRAY(start_queue.c.chip_id.type)
_LEAVE: Final = Prepared(
    delete(start_queue)
    .where(
        or_(
            start_queue.c.expires_at <= _CLOCK,
            start_queue.c.chip_id == any_(bindparam("granted", type_=_CHIP_IDS)),
        )
    )
    .returning(
        start_queue.c.chip_id, func.extract("epoch", _CLOCK - start_queue.c.asked_at).label("waited_s")
    )
)
_FORGET_BUCKETS: Final = Prepared(
    delete(start_buckets).where(
        start_buckets.c.key != FLEET,
        start_buckets.c.refilled_at < _CLOCK - func.make_interval(0, 0, 0, 0, 0, 0, _FORGOTTEN_AFTER_S),
    )
)


async def take(
    engine: AsyncEngine, lease: Lease, asks: Sequence[Ask], pace: Pace, tries: Mapping[str, Tries]
) -> Turns | None:
    """See `ReconcileStore.take_starts`."""
    async with direct.transaction(engine) as connection:
        ours = leases.as_parameters(lease)
        if (await connection.execute(_LOCK, ours)).first() is None:
            await leases.guard_directly(connection, lease)
            await connection.execute(_MAKE, {"burst": pace.fleet.burst})
            await connection.execute(_LOCK, ours)
        rows = (await connection.execute(_STANDING)).all()
        if rows[0].fleet_paused:
            return None
        now, line = rows[0].now, int(rows[0].line)
        buckets = {row.key: Bucket(row.tokens, row.refilled_at) for row in rows}
        ordered = in_order(asks, now)
        ahead = await _counted(connection, _AHEAD, ordered) if line else {}
        admission = admit(ordered, ahead, buckets, pace, now)
        waited = await _leave(connection, admission.granted) if line else {}
        spent = {chip_id: tries[chip_id] for chip_id in sorted(admission.granted) if chip_id in tries}
        if admission.buckets or spent:
            drawn = {
                "whose": lease.key,
                "buckets": _json(_bucket_values(admission.buckets)),
                "tries": _json(_tries_values(spent)),
            }
            await connection.execute(_DRAW, drawn)
        if admission.buckets and any(
            (now - bucket.refilled_at).total_seconds() > _FORGOTTEN_AFTER_S for bucket in buckets.values()
        ):
            await connection.execute(_FORGET_BUCKETS)
        waiting = [ask for ask in ordered if ask.chip_id in admission.passed]
        waits: Mapping[str, Waits] = {}
        if waiting:
            coming = await _counted(connection, _COMING, waiting)
            waits = waits_of(waiting, ahead, coming, admission, pace)
            places = [_place_values(lease.key, ask, waits[ask.chip_id], now) for ask in waiting]
            await connection.execute_each(_STAND, places)
        if line or waiting:
            line = int((await connection.execute(_LINE)).one().line)
        return Turns(
            waited_s={chip_id: waited.get(chip_id, 0.0) for chip_id in admission.granted},
            waits=waits,
            fleet_tokens=admission.tokens[FLEET],
            line=line,
        )


async def _leave(connection: Direct, granted: Sequence[str]) -> dict[str, float]:
    """Who got a token leaves the line, and who did not ask again in time; how long each was there."""
    gone = await connection.execute(_LEAVE, {"granted": list(granted)})
    return {chip_id: max(0.0, float(waited_s)) for chip_id, waited_s in gone}


async def _counted(connection: Direct, query: Prepared, asks: Sequence[Ask]) -> Counts:
    values = {
        "chip_ids": [ask.chip_id for ask in asks],
        "orders": [ask.start_order for ask in asks],
        "sinces": [ask.waiting_since for ask in asks],
    }
    counted: dict[str, dict[tuple[str | None, str | None], int]] = {}
    for chip_id, host, provider, count in await connection.execute(query, values):
        counted.setdefault(chip_id, {})[host, provider] = count
    return counted


_ASKED: Final = bindparam("chip_ids", type_=_CHIP_IDS)
_ASKS: Final = (
    func.unnest(
        _ASKED,
        bindparam("orders", type_=ARRAY(Integer)),
        bindparam("sinces", type_=ARRAY(start_queue.c.waiting_since.type)),
    )
    .table_valued(
        column("chip_id", start_queue.c.chip_id.type),
        column("start_order", Integer),
        column("waiting_since", start_queue.c.waiting_since.type),
    )
    .render_derived("ask")
)
_ASKING: Final = tuple_(_ASKS.c.start_order, _ASKS.c.waiting_since, _ASKS.c.chip_id)


def _ahead() -> Select[Any]:
    """In line before each of these, without themselves."""
    place = tuple_(start_queue.c.start_order, start_queue.c.waiting_since, start_queue.c.chip_id)
    by = (_ASKS.c.chip_id, start_queue.c.host, start_queue.c.provider)
    return (
        select(*by, func.count())
        .select_from(_ASKS)
        .join(start_queue, place < _ASKING)
        .where(start_queue.c.expires_at > _CLOCK, start_queue.c.chip_id != all_(_ASKED))
        .group_by(*by)
    )


def _coming() -> Select[Any]:
    """Not in line yet and about to be, before each of these: their containers are about to answer."""
    place = tuple_(plans.c.start_order, chips.c.waiting_since, chips.c.id)
    in_line = exists().where(start_queue.c.chip_id == chips.c.id)
    return (
        select(_ASKS.c.chip_id, containers.c.node_name, labels.c.provider_slug, func.count())
        .select_from(chips)
        .outerjoin(labels, and_(labels.c.chip_id == chips.c.id, labels.c.released_at.is_(None)))
        .join(containers, containers.c.user_id == chips.c.user_id)
        .join(users, users.c.id == chips.c.user_id)
        .join(plans, plans.c.slug == users.c.plan_slug)
        .join(_ASKS, place < _ASKING)
        .where(
            chips.c.waiting_since.is_not(None),
            chips.c.wanted == Wanted.CONNECTED.value,
            chips.c.phase == ChipPhase.QUEUED.value,
            chips.c.reason.is_(None),
            containers.c.phase == any_(literal([phase.value for phase in COMING_FROM], ARRAY(Text))),
            containers.c.reason.is_(None),
            chips.c.id != all_(_ASKED),
            ~in_line,
        )
        .group_by(_ASKS.c.chip_id, containers.c.node_name, labels.c.provider_slug)
    )


_AHEAD: Final = Prepared(_ahead())
_COMING: Final = Prepared(_coming())


def _parameters(*names: str) -> dict[str, Any]:
    return {name: bindparam(name) for name in names}


def _draw() -> Any:
    """The buckets as they are now, and what the starts cost that drew on them."""
    spent = json_rows(
        "tries",
        (column("chip_id", chips.c.id.type), *(column(name, chips.c[name].type) for name in _TRIES)),
        "spent",
    )
    recorded = (
        update(chips)
        .where(chips.c.id == spent.c.chip_id, chips.c.user_id == bindparam("whose"))
        .values({name: spent.c[name] for name in _TRIES})
        .cte("recorded")
    )
    drawn = json_rows("buckets", (column(name, start_buckets.c[name].type) for name in _BUCKET), "drawn")
    made = insert(start_buckets).from_select(_BUCKET, select(*(drawn.c[name] for name in _BUCKET)))
    return made.on_conflict_do_update(
        index_elements=[start_buckets.c.key],
        set_={"tokens": made.excluded.tokens, "refilled_at": made.excluded.refilled_at},
    ).add_cte(recorded)


def _stand() -> Any:
    places = ("chip_id", "user_id", "host", "provider", "start_order", "waiting_since", "asked_at")
    made = insert(start_queue).values(_parameters(*places, "expires_at"))
    renewed = ("host", "provider", "start_order", "waiting_since", "expires_at")
    return made.on_conflict_do_update(
        index_elements=[start_queue.c.chip_id], set_={name: made.excluded[name] for name in renewed}
    )


_TRIES: Final = ("tries_generation", "tries_failures", "tries_qr_rounds", "tries_last_at")
_BUCKET: Final = ("key", "tokens", "refilled_at")
_DRAW: Final = Prepared(_draw())
_STAND: Final = Prepared(_stand())


def _bucket_values(buckets: Mapping[str, Bucket]) -> list[dict[str, Any]]:
    return [
        {"key": key, "tokens": bucket.tokens, "refilled_at": bucket.refilled_at}
        for key, bucket in buckets.items()
    ]


def _tries_values(tries: Mapping[str, Tries]) -> list[dict[str, Any]]:
    return [
        {
            "chip_id": chip_id,
            "tries_generation": spent.generation,
            "tries_failures": spent.failures,
            "tries_qr_rounds": spent.qr_rounds,
            "tries_last_at": spent.last_at,
        }
        for chip_id, spent in tries.items()
    ]


def _json(rows: list[dict[str, Any]]) -> str:
    return msgspec.json.encode(rows).decode()


def _place_values(user_id: str, ask: Ask, waits: Waits, now: datetime) -> dict[str, Any]:
    return {
        "chip_id": ask.chip_id,
        "user_id": user_id,
        "host": ask.host,
        "provider": ask.provider,
        "start_order": ask.start_order,
        "waiting_since": ask.waiting_since,
        "asked_at": now,
        "expires_at": waits.counts_until(now),
    }
