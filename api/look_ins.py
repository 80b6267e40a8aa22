"""Looks into a container: a request leaves a mark, a daemon samples, the store answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final

from litestar.response.sse import ServerSentEventMessage

from api.deadline import in_time
from api.observed import looks
from api.schemas import ContainerLog, ContainerStats
from api.services import Services
from core.domain.look_ins import FRESH_S, Meter, StoredLog, What
from core.domain.views import text_of
from core.errors import DependencyError
from core.store.containers import ContainerView

_MB: Final = 1024 * 1024
_FIRST_SAMPLE_S: Final = 3.0
_RENEW_S: Final = 10.0
_POLL_S: Final = 2.0

NOT_RUNNING: Final = "O container não está em execução no momento; tente novamente quando ele iniciar."
NO_SAMPLE: Final = "Ainda não há medição deste container; tente novamente em instantes."
NO_LOG: Final = "O log deste container ainda não pôde ser lido; tente novamente em instantes."
OLD_LOG: Final = "O log não pôde ser lido agora; estas são as últimas linhas conhecidas."


async def stats(services: Services, container: ContainerView) -> ContainerStats:
    """What the container uses; nulls with a sentence when nobody can say. Waits a moment for a first sample."""
    user_id = container.user_id
    with services.looked.subscribed(user_id) as news:
        await in_time(services.look_ins.watch(user_id, What.STATS))
        meter = await in_time(services.look_ins.meter(user_id))
        if _waits_for_sample(meter):
            async for _ in looks(news, _FIRST_SAMPLE_S):
                meter = await in_time(services.look_ins.meter(user_id))
                if not _waits_for_sample(meter):
                    break
    return _shown_stats(container, meter)


def _waits_for_sample(meter: Meter | None) -> bool:
    return meter is not None and meter.allocation_id is not None and meter.sample is None


def _shown_stats(container: ContainerView, meter: Meter | None) -> ContainerStats:
    limit_mb = meter.memory_limit_mb if meter is not None else None
    sample = meter.sample if meter is not None else None
    used_mb = None if sample is None else round(sample.memory_bytes / _MB, 2)
    message = None
    if sample is None:
        runs = meter is not None and meter.allocation_id is not None
        message = text_of(container.reason) or (NO_SAMPLE if runs else NOT_RUNNING)
    return ContainerStats(
        user_id=container.user_id,
        cpu_percent=None if sample is None else round(sample.cpu_percent, 2),
        memory_usage_mb=used_mb,
        memory_limit_mb=limit_mb,
        memory_percent=round(100 * used_mb / limit_mb, 2) if used_mb is not None and limit_mb else None,
        network_rx_bytes=None,
        network_tx_bytes=None,
        sampled_at=None if sample is None else sample.sampled_at,
        reason=container.reason,
        message=message,
    )


async def log(services: Services, container: ContainerView, lines: int) -> ContainerLog:
    """The newest `lines` of the container's log. Waits a moment when it was not read just now."""
    user_id = container.user_id
    with services.looked.subscribed(user_id) as news:
        await in_time(services.look_ins.watch(user_id, What.LOGS))
        found = await in_time(services.look_ins.log(user_id))
        if not _is_fresh(found):
            async for _ in looks(news, _FIRST_SAMPLE_S):
                found = await in_time(services.look_ins.log(user_id))
                if _is_fresh(found):
                    break
    if found is None:
        why = text_of(container.reason) or (NO_LOG if container.container_id else NOT_RUNNING)
        return ContainerLog(user_id, [], 0, None, why)
    old = None if _is_fresh(found) else OLD_LOG
    return ContainerLog(user_id, list(found.lines[-lines:]), found.last_line, found.read_at, old)


def _is_fresh(found: StoredLog | None) -> bool:
    return found is not None and found.age_s <= FRESH_S


async def followed(
    services: Services, user_id: str, lines: int, after: int | None
) -> AsyncGenerator[ServerSentEventMessage, None]:
    """The newest `lines`, then every further one as it comes, until nobody listens or the container is gone.

    Each event's id is its line's number. `after`: the number that the caller has already.
    """
    number = after
    renew_at = 0.0
    with services.looked.subscribed(user_id) as news:
        while True:
            with suppress(DependencyError):  # the store is away for a moment: so is what it would tell
                if time.monotonic() >= renew_at:
                    await in_time(services.look_ins.watch(user_id, What.LOGS))
                    if await in_time(services.look_ins.meter(user_id)) is None:
                        return
                    renew_at = time.monotonic() + _RENEW_S
                    yield ServerSentEventMessage(data=None, comment="ok")
                found = await in_time(services.look_ins.log(user_id, after=number))
                if found is not None:
                    if number is None:
                        number = max(0, found.last_line - lines)
                    elif number > found.last_line:
                        number = 0  # it was forgotten meanwhile, and is counted anew
                    new = found.after(number)
                    for place, line in enumerate(new, start=found.last_line - len(new) + 1):
                        yield ServerSentEventMessage(data=line, id=place)
                    number = found.last_line
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await news.wait()
            news.clear()
