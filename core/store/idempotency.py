"""Claims on an `Idempotency-Key`: who may have the effect, and the answer that all others get.

The row is claimed before the effect; the effect's own transaction marks it (core/store/audit.py), and fails when the
claim is somebody else's by then; the answer is written last. So whatever is cut off in between, a claim whose mark is
missing had no effect and never will have one, and may be taken over; one with a mark and no answer had it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final, TypeAlias

import msgspec
from sqlalchemy import and_, delete, func, null, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.domain.actor import Claim
from core.store.engine import reading
from core.store.tables import idempotency_keys

KEPT_S: Final = 86_400.0
# Longer than any request lasts; one that lasts longer all the same finds its claim taken over, and changes nothing.
ABANDONED_AFTER_S: Final = 120.0


class Answer(msgspec.Struct, frozen=True):
    """The first answer; the body is still sealed."""

    status: int
    headers: Mapping[str, str]
    sealed_body: bytes


class Taken(Enum):
    """Why there is neither a claim nor an answer."""

    REUSED = auto()  # the key stands for another request
    BUSY = auto()  # the first request is under way
    LOST = auto()  # it had its effect, and its answer was never written


Outcome: TypeAlias = Claim | Answer | Taken


async def claim(engine: AsyncEngine, owner: str, key: str, fingerprint: str) -> Outcome:
    """Claim the key, or learn what became of the request that has it. Raises Unavailable."""
    while True:
        async with reading(engine) as connection:
            mine = (await connection.execute(_claim(owner, key, fingerprint))).one_or_none()
            if mine is not None:
                return Claim(mine.id, mine.token)
            row = (await connection.execute(_standing(owner, key))).one_or_none()
        if row is None:
            continue  # given up between the two statements
        if row.fingerprint != fingerprint:
            return Taken.REUSED
        if row.status is not None:
            return Answer(row.status, row.headers, row.sealed_body)
        return Taken.LOST if row.took_effect and row.abandoned else Taken.BUSY


async def keep(engine: AsyncEngine, held: Claim, answer: Answer) -> bool:
    """Write the answer; False when the claim was taken over. Raises Unavailable."""
    kept = update(idempotency_keys).where(*_of(held)).values(**msgspec.structs.asdict(answer))
    async with reading(engine) as connection:
        return bool((await connection.execute(kept)).rowcount)


async def give_up(engine: AsyncEngine, held: Claim) -> None:
    """Free the key, unless the request had its effect: then nobody may have it once more. Raises Unavailable."""
    freed = delete(idempotency_keys).where(*_of(held), ~idempotency_keys.c.took_effect)
    async with reading(engine) as connection:
        await connection.execute(freed)


def _claim(owner: str, key: str, fingerprint: str) -> Any:
    made = insert(idempotency_keys).values(owner=owner, key=key, fingerprint=fingerprint)
    forgotten = idempotency_keys.c.created_at < _ago(KEPT_S)
    abandoned = and_(
        idempotency_keys.c.fingerprint == made.excluded.fingerprint,
        idempotency_keys.c.status.is_(None),
        ~idempotency_keys.c.took_effect,
        idempotency_keys.c.claimed_at < _ago(ABANDONED_AFTER_S),
    )
    return made.on_conflict_do_update(
        index_elements=[idempotency_keys.c.owner, idempotency_keys.c.key],
        set_={
            "fingerprint": made.excluded.fingerprint,
            "token": idempotency_keys.c.token + 1,
            "claimed_at": func.clock_timestamp(),
            "took_effect": False,
            "status": null(),
            "headers": made.excluded.headers,
            "sealed_body": null(),
            "created_at": func.clock_timestamp(),
        },
        where=or_(forgotten, abandoned),
    ).returning(idempotency_keys.c.id, idempotency_keys.c.token)


def _standing(owner: str, key: str) -> Any:
    abandoned = idempotency_keys.c.claimed_at < _ago(ABANDONED_AFTER_S)
    return select(idempotency_keys, abandoned.label("abandoned")).where(
        idempotency_keys.c.owner == owner, idempotency_keys.c.key == key
    )


def _of(held: Claim) -> tuple[Any, Any]:
    return idempotency_keys.c.id == held.id, idempotency_keys.c.token == held.token


def _ago(seconds: float) -> Any:
    return func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, seconds)
