"""Wishes about chips: accepted in one transaction, then waited for, in that order."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from api.chip_cache import UserChips
from api.deadline import in_time
from api.observed import looks
from api.preferences import Preference
from api.services import Services
from core.domain.actor import Actor
from core.domain.names import parse_id
from core.domain.views import StoredChip, answers_create
from core.errors import StaleWrite, Unavailable
from core.store import intents, queries

T = TypeVar("T")

_TRIES: Final = 3


async def create(
    services: Services, user_id: str, alias: str, preference: Preference, *, actor: Actor
) -> StoredChip:
    """Accept a chip; return when its port or a reason for waiting is known, or the wait is over."""
    chip_id = str(uuid.uuid4())
    storage_id = services.settings.job.storage_id
    with services.observed.subscribed(user_id) as news:
        chip = await winning(
            lambda: intents.create_chip(
                services.engine,
                services.vault.sealer,
                storage_id,
                user_id=user_id,
                chip_id=chip_id,
                alias=alias,
                actor=actor,
            )
        )
        if answers_create(chip):
            return chip
        async for _ in looks(news, preference.wait_s):
            try:
                seen = await in_time(queries.read_chip(services.engine, user_id, chip_id))
            except Unavailable:
                break  # it was accepted: that must not turn into an error
            if seen is None:
                break  # deleted meanwhile; it was created all the same
            chip = seen
            if answers_create(chip):
                break
    return chip


async def delete(services: Services, user_id: str, chip_id: str, *, actor: Actor) -> None:
    known = known_id(chip_id)
    await winning(lambda: intents.delete_chip(services.engine, user_id, known, actor=actor))
    await services.qr.forget_chip(known)


async def disconnect(services: Services, user_id: str, chip_id: str, *, actor: Actor) -> StoredChip:
    known = known_id(chip_id)
    chip = await winning(lambda: intents.disconnect_chip(services.engine, user_id, known, actor=actor))
    await services.qr.forget_chip(known)
    return chip


async def reconnect(
    services: Services, user_id: str, chip_id: str, *, fresh: bool, actor: Actor
) -> StoredChip:
    known = known_id(chip_id)
    storage_id = services.settings.job.storage_id
    chip = await winning(
        lambda: intents.reconnect_chip(
            services.engine,
            services.vault.sealer,
            storage_id,
            user_id=user_id,
            chip_id=known,
            fresh=fresh,
            actor=actor,
        )
    )
    if not chip.seen:
        await services.qr.forget_chip(known)
    return chip


def chosen(chips: UserChips, chip_id: str) -> StoredChip:
    """One of a user's chips. Raises NotFound for an unknown, a malformed and another user's id alike."""
    chip = chips.by_id.get(known_id(chip_id))
    if chip is None:
        raise intents.unknown_chip()
    return chip


def known_id(chip_id: str) -> str:
    """The canonical id. Raises NotFound for a malformed one."""
    parsed = parse_id(chip_id)
    if parsed is None:
        raise intents.unknown_chip()
    return parsed


async def winning(accept: Callable[[], Awaitable[T]]) -> T:
    """Once more when another transaction was faster; each try is one whole transaction."""
    for _ in range(_TRIES - 1):
        try:
            return await in_time(accept())
        except StaleWrite:
            continue
    return await in_time(accept())
