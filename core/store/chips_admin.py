"""What operators and the sandbox ask and wish about chips, whoever owns them."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from sqlalchemy import Row, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.domain.actor import Actor
from core.domain.names import parse_id
from core.errors import Conflict
from core.store.audit import record_change
from core.store.containers import next_generation
from core.store.engine import reading, transaction
from core.store.intents import record, unknown_chip
from core.store.notify import INTENTS, notify
from core.store.snapshots import memory_of
from core.store.tables import chips, containers, labels, users

# Codes and texts of what operators do to a chip, as its history tells it.
BAN_SET: Final = ("ban_set", "Chip marcado como banido pelo WhatsApp.")
BAN_LIFTED: Final = ("ban_lifted", "Marca de banimento retirada.")
RELEASED: Final = ("quarantine_released", "Chip liberado da quarentena.")
ROTATION: Final = ("label_rotation_requested", "Troca de proxy solicitada.")


class FoundChip(msgspec.Struct, frozen=True):
    """A chip that a text stands for, and whose it is."""

    id: str
    alias: str
    user_id: str
    email: str


async def find_chips(engine: AsyncEngine, text: str) -> tuple[FoundChip, ...]:
    """The chips whose id is `text` or whose alias it is in any letter case, of all users; tombstones not."""
    named = func.lower(chips.c.alias) == text.lower()
    chip_id = parse_id(text)
    query = (
        select(chips.c.id, chips.c.alias, chips.c.user_id, users.c.email)
        .join_from(chips, users, chips.c.user_id == users.c.id)
        .where(chips.c.deleted_at.is_(None))
        .where(named if chip_id is None else or_(named, chips.c.id == chip_id))
        .order_by(chips.c.created_at, chips.c.id)
    )
    async with reading(engine) as connection:
        rows = (await connection.execute(query)).all()
    return tuple(FoundChip(row.id, row.alias, row.user_id, row.email) for row in rows)


async def ban_chip(engine: AsyncEngine, chip_id: str, *, banned: bool, by: str, actor: Actor) -> bool:
    """Mark a chip as banned by WhatsApp, or lift that: it is stopped once and left alone while it stands.

    `by`: who says so; it stands in the chip's history. False when it is so already. Raises NotFound.
    """
    async with transaction(engine) as connection:
        chip = await _locked(connection, chip_id)
        if (chip.banned_at is not None) == banned:
            return False
        since = func.clock_timestamp() if banned else None
        code, text = BAN_SET if banned else BAN_LIFTED
        await _wish(connection, chip, {"banned_at": since}, code, text, by)
        action = "chip.ban" if banned else "chip.lift_ban"
        await record_change(
            connection, actor, action, user_id=chip.user_id, target=chip_id, detail={"by": by}
        )
        return True


async def release_chip(engine: AsyncEngine, chip_id: str, *, by: str, actor: Actor) -> bool:
    """Let a chip out of quarantine: its breaker begins anew. False when it is in none. Raises NotFound."""
    async with transaction(engine) as connection:
        chip = await _locked(connection, chip_id)
        breaker = memory_of(chip.memory).breaker
        quarantined = breaker.quarantined_generation
        if quarantined is None or chip.released_generation > quarantined:
            return False
        await _wish(connection, chip, {}, *RELEASED, by, release=True)
        await record_change(
            connection, actor, "chip.release", user_id=chip.user_id, target=chip_id, detail={"by": by}
        )
        return True


async def rotate_label(engine: AsyncEngine, chip_id: str, *, by: str, actor: Actor) -> tuple[int, bool]:
    """Wish another label for a chip; the generation of the one that it has, and whether the wish is new.

    A wish that is not answered yet stands for this one too. Raises NotFound; Conflict (`label_missing`) for a chip
    that has none.
    """
    async with transaction(engine) as connection:
        chip = await _locked(connection, chip_id)
        has = select(labels.c.generation, labels.c.requested_generation).where(labels.c.chip_id == chip_id)
        label = (await connection.execute(has.with_for_update())).one_or_none()
        if label is None:
            raise Conflict(
                "Este chip ainda não tem um rótulo de proxy para trocar; ele recebe um quando iniciar.",
                code="label_missing",
            )
        if label.requested_generation > label.generation:
            return label.generation, False
        asked = update(labels).where(labels.c.chip_id == chip_id)
        await connection.execute(asked.values(requested_generation=label.generation + 1))
        generation = await next_generation(connection, chip.user_id)
        await record(connection, chip.user_id, chip.id, generation, "system", *ROTATION, {"by": by})
        await record_change(
            connection, actor, "chip.rotate_label", user_id=chip.user_id, target=chip_id, detail={"by": by}
        )
        await notify(connection, INTENTS, chip.user_id)
        return label.generation, True


async def _locked(connection: AsyncConnection, chip_id: str) -> Row[Any]:
    # The order in which passes and wishes take these rows.
    whose = select(chips.c.user_id).where(chips.c.id == chip_id, chips.c.deleted_at.is_(None))
    user_id = await connection.scalar(whose)
    await connection.execute(select(users.c.id).where(users.c.id == user_id).with_for_update())
    await connection.execute(
        select(containers.c.user_id).where(containers.c.user_id == user_id).with_for_update()
    )
    query = select(chips).where(chips.c.id == chip_id, chips.c.deleted_at.is_(None)).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise unknown_chip()
    return row


async def _wish(
    connection: AsyncConnection,
    chip: Row[Any],
    desired: dict[str, Any],
    code: str,
    description: str,
    by: str,
    *,
    release: bool = False,
) -> None:
    """The generation is the container's: the chip's own would buy QR sets, and end its owner's consent."""
    generation = await next_generation(connection, chip.user_id)
    if release:
        desired = {"released_generation": generation}
    await connection.execute(update(chips).where(chips.c.id == chip.id).values(**desired))
    await record(connection, chip.user_id, chip.id, generation, "system", code, description, {"by": by})
    await notify(connection, INTENTS, chip.user_id)


async def owner_of(engine: AsyncEngine, chip_id: str) -> str | None:
    """The id of the user whose chip this is; None for a deleted or an unknown one."""
    query = select(chips.c.user_id).where(chips.c.id == chip_id, chips.c.deleted_at.is_(None))
    async with reading(engine) as connection:
        found: str | None = await connection.scalar(query)
    return found
