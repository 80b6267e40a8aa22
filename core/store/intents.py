"""Wishes of users, each accepted in one transaction: desired columns, generation, event, NOTIFY.

Rows are locked in one order everywhere, user, container, chip, so that two wishes of one user wait for each
other and never for ever. The answer is committed before anybody waits for anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Update, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.crypto import Sealer
from core.domain.actor import Actor
from core.domain.desired import Consent, Wanted
from core.domain.pairing import NewestWish, is_asked_already, refuse_pairing
from core.domain.quota import Refusal, Standing, refusal, refusal_text
from core.domain.views import StoredChip, reconnect_is_under_way
from core.errors import Conflict, NotFound, QuotaExceeded
from core.store.audit import record_change
from core.store.containers import ensure_container, next_generation
from core.store.engine import transaction
from core.store.month_usage import used_bytes
from core.store.notify import INTENTS, notify
from core.store.queries import chip_of
from core.store.tables import chip_events, chips, containers, plans, users

CHIP_NOT_FOUND: Final = "Chip não encontrado."
USER_GONE: Final = "Usuário inválido ou inativo."


def unknown_chip() -> NotFound:
    """For an unknown, a deleted, a malformed and another user's id alike."""
    return NotFound(CHIP_NOT_FOUND, code="chip_not_found")


async def create_chip(
    engine: AsyncEngine,
    sealer: Sealer,
    storage_id: str,
    *,
    user_id: str,
    chip_id: str,
    alias: str,
    actor: Actor,
) -> StoredChip:
    """Accept a new chip under an alias that is already in its stored form.

    Raises Conflict (`alias_taken`), QuotaExceeded (`chip_limit`, `proxy_quota`), NotFound for a user who is
    no more, Unavailable.
    """
    async with transaction(engine) as connection:
        standing = await _standing(connection, user_id, alias)
        refused = refusal(standing)
        if refused is not None:
            error = Conflict if refused is Refusal.ALIAS_TAKEN else QuotaExceeded
            raise error(refusal_text(refused, standing), code=refused.value)
        await ensure_container(connection, user_id, sealer, storage_id)
        generation = await next_generation(connection, user_id)
        await connection.execute(
            insert(chips).values(id=chip_id, user_id=user_id, alias=alias, generation=generation)
        )
        await record(connection, user_id, chip_id, generation, "system", "chip_created", "Chip criado.")
        asked = {"alias": alias}
        await record_change(connection, actor, "chip.create", user_id=user_id, target=chip_id, detail=asked)
        return await _accepted(connection, user_id, chip_id)


async def delete_chip(engine: AsyncEngine, user_id: str, chip_id: str, *, actor: Actor) -> None:
    """Turn a chip into a tombstone: gone for its owner at once, torn down behind it. Raises NotFound."""
    async with transaction(engine) as connection:
        await _locked(connection, user_id, chip_id)
        await bury(connection, user_id, [chip_id], await next_generation(connection, user_id))
        await record_change(connection, actor, "chip.delete", user_id=user_id, target=chip_id)
        await notify(connection, INTENTS, user_id)


async def disconnect_chip(engine: AsyncEngine, user_id: str, chip_id: str, *, actor: Actor) -> StoredChip:
    """Wish the chip disconnected; a second time changes nothing. Raises NotFound."""
    async with transaction(engine) as connection:
        chip = await _locked(connection, user_id, chip_id)
        if chip.wanted == Wanted.DISCONNECTED:
            return chip
        generation = await _wish(
            connection, user_id, chip_id, wanted=Wanted.DISCONNECTED.value, consent=Consent.NONE.value
        )
        await record(
            connection, user_id, chip_id, generation, "info", "disconnect_requested", "Desconexão solicitada."
        )
        await record_change(connection, actor, "chip.disconnect", user_id=user_id, target=chip_id)
        return await _accepted(connection, user_id, chip_id)


async def reconnect_chip(
    engine: AsyncEngine,
    sealer: Sealer,
    storage_id: str,
    *,
    user_id: str,
    chip_id: str,
    fresh: bool,
    actor: Actor,
) -> StoredChip:
    """Wish the chip connected; nothing changes while WAHA is already at work on that very wish.

    `fresh`: the owner consents to losing the credentials at once; without it, a press consents only once the
    ladder has ended and it is this chip alone that fails. Raises NotFound.
    """
    async with transaction(engine) as connection:
        chip = await _locked(connection, user_id, chip_id)
        if reconnect_is_under_way(chip):
            return chip
        await ensure_container(connection, user_id, sealer, storage_id)
        consent = Consent.FRESH if fresh else Consent.PRESS
        generation = await _wish(
            connection, user_id, chip_id, wanted=Wanted.CONNECTED.value, consent=consent.value
        )
        await record(
            connection,
            user_id,
            chip_id,
            generation,
            "reconnect",
            "reconnect_requested",
            "Reconexão solicitada.",
            {"fresh": fresh},
        )
        asked = {"fresh": fresh}
        await record_change(
            connection, actor, "chip.reconnect", user_id=user_id, target=chip_id, detail=asked
        )
        return await _accepted(connection, user_id, chip_id)


async def ask_pairing(
    engine: AsyncEngine, sealer: Sealer, storage_id: str, *, user_id: str, chip_id: str, actor: Actor
) -> StoredChip:
    """Wish the chip connected for a pairing code: it buys QR sets and consents as a press on Conectar does.

    Nothing changes while such a wish is still on its way, so asking again does not begin all anew. Raises
    NotFound; Conflict (`chip_connected`, `chip_not_pairable`).
    """
    async with transaction(engine) as connection:
        chip = await _locked(connection, user_id, chip_id)
        refuse_pairing(chip)
        query = select(chips.c.consent, chips.c.intent_at).where(
            chips.c.id == chip_id, chips.c.user_id == user_id
        )
        newest = (await connection.execute(query)).one()
        if is_asked_already(chip, NewestWish(newest.consent, newest.intent_at)):
            return chip
        await ensure_container(connection, user_id, sealer, storage_id)
        generation = await _wish(
            connection, user_id, chip_id, wanted=Wanted.CONNECTED.value, consent=Consent.PRESS.value
        )
        text = "Código de pareamento solicitado."
        await record(connection, user_id, chip_id, generation, "reconnect", "pairing_requested", text)
        await record_change(connection, actor, "chip.pairing_code", user_id=user_id, target=chip_id)
        return await _accepted(connection, user_id, chip_id)


async def _standing(connection: AsyncConnection, user_id: str, alias: str) -> Standing:
    user = (
        await connection.execute(
            select(plans.c.max_chips, plans.c.proxy_gb_limit, used_bytes(users.c.id).label("proxy_bytes"))
            .join_from(users, plans, users.c.plan_slug == plans.c.slug)
            .where(users.c.id == user_id)
            .with_for_update(of=users)
        )
    ).one_or_none()
    if user is None:
        raise NotFound(USER_GONE)
    same_alias = func.lower(chips.c.alias) == func.lower(literal(alias))
    count, taken = (
        await connection.execute(
            select(func.count(), func.coalesce(func.bool_or(same_alias), False)).where(
                chips.c.user_id == user_id, chips.c.deleted_at.is_(None)
            )
        )
    ).one()
    return Standing(
        alias_taken=taken,
        chips=count,
        max_chips=user.max_chips,
        proxy_bytes=user.proxy_bytes,
        proxy_limit_gb=user.proxy_gb_limit,
    )


async def _locked(connection: AsyncConnection, user_id: str, chip_id: str) -> StoredChip:
    await connection.execute(
        select(containers.c.user_id).where(containers.c.user_id == user_id).with_for_update()
    )
    return await _found(connection, user_id, chip_id, lock=True)


async def _found(
    connection: AsyncConnection, user_id: str, chip_id: str, *, lock: bool = False
) -> StoredChip:
    chip = await chip_of(connection, user_id, chip_id, lock=lock)
    if chip is None:
        raise unknown_chip()
    return chip


async def _wish(connection: AsyncConnection, user_id: str, chip_id: str, **desired: Any) -> int:
    generation = await next_generation(connection, user_id)
    await connection.execute(_wished([chip_id], generation, desired))
    return generation


def _wished(chip_ids: Sequence[str], generation: int, desired: Mapping[str, Any]) -> Update:
    return (
        update(chips)
        .where(chips.c.id.in_(chip_ids))
        .values(
            **desired,
            generation=generation,
            intent_at=func.clock_timestamp(),
            revision=chips.c.revision + 1,
            updated_at=func.clock_timestamp(),
        )
    )


async def bury(connection: AsyncConnection, user_id: str, chip_ids: Sequence[str], generation: int) -> None:
    """Turn chips of one user, whose rows are locked by now, into tombstones."""
    desired = {
        "wanted": Wanted.DELETED.value,
        "consent": Consent.NONE.value,
        "deleted_at": func.clock_timestamp(),
    }
    await connection.execute(_wished(chip_ids, generation, desired))
    for chip_id in chip_ids:
        await record(connection, user_id, chip_id, generation, "system", "chip_deleted", "Chip excluído.")


async def record(
    connection: AsyncConnection,
    user_id: str,
    chip_id: str,
    generation: int,
    type_: str,
    code: str,
    description: str,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """One line of a chip's history."""
    # The chip's row is locked by now: events of one chip commit in the order of their ids.
    await connection.execute(
        insert(chip_events).values(
            chip_id=chip_id,
            user_id=user_id,
            generation=generation,
            type=type_,
            code=code,
            description=description,
            extra_data=dict(extra or {}),
        )
    )


async def _accepted(connection: AsyncConnection, user_id: str, chip_id: str) -> StoredChip:
    await notify(connection, INTENTS, user_id)
    return await _found(connection, user_id, chip_id)
