"""What happens to the fleet, for operators who watch it live.

News say only whose rows changed. Each watcher keeps the ids of those users until it has told of them, once
however often they changed meanwhile, and a fingerprint of what it told last, so that what is the same is not told
again. Both are bounded: where too many changed, it says `relist` and the client lists again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from typing import Any, Final

import msgspec

from api import fleet
from api.deadline import in_time
from api.routes.containers import rendered
from api.services import Services
from api.streams import Message, Source
from core.errors import Unavailable
from core.store.containers import read_containers
from core.store.fleet import chips_of

_MOST_TOLD: Final = 10_000
# A pass writes several times within a moment: they are told together.
_GATHER_S: Final = 0.3
_FLEET_EVERY_S: Final = 5.0


class _Told:
    """Fingerprints of what was told last, the newest few."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], int] = OrderedDict()

    def is_new(self, kind: str, id_: str, data: Any) -> bool:
        mark = hash(msgspec.json.encode(data))
        if self._known.get((kind, id_)) == mark:
            return False
        self._known[kind, id_] = mark
        self._known.move_to_end((kind, id_))
        if len(self._known) > _MOST_TOLD:
            self._known.popitem(last=False)
        return True


async def messages(services: Services, *, lower_case: bool) -> Source:
    """`fleet` first, then `container` and `chip` of each user whose rows changed, and `fleet` again when it changed.

    A store that is away is waited for: what changed meanwhile is told as `relist` once it is back.
    """
    loop, told = asyncio.get_running_loop(), _Told()
    with services.fleet.subscribed() as pending:
        yield Message("fleet", await fleet.summary(services))
        fleet_at = loop.time()
        relist_at = fleet_at - _FLEET_EVERY_S
        stale = False
        while True:
            # Figures that changed are due at their time, whatever comes between or does not.
            due_in_s = fleet_at + _FLEET_EVERY_S - loop.time() if stale else _FLEET_EVERY_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due_in_s)):
                    await pending.news.wait()
                    stale = True
            await asyncio.sleep(_GATHER_S)
            relist = pending.relist and loop.time() - relist_at >= _FLEET_EVERY_S
            users = pending.take()
            try:
                if relist:
                    pending.relist, relist_at = False, loop.time()
                    yield Message("relist", {"detail": "Liste os containers de novo: algo pode ter mudado."})
                for message in await _of_users(services, users, told, lower_case=lower_case):
                    yield message
                if stale and loop.time() - fleet_at >= _FLEET_EVERY_S:
                    yield Message("fleet", await fleet.summary(services))
                    fleet_at, stale = loop.time(), False
            except Unavailable:
                pending.missed()
                await asyncio.sleep(1.0)


async def _of_users(services: Services, users: list[str], told: _Told, *, lower_case: bool) -> list[Message]:
    if not users:
        return []
    found = {one.user_id: one for one in await in_time(read_containers(services.engine, users))}
    chips = await in_time(chips_of(services.engine, users))
    out: list[Message] = []
    for user_id in users:
        view = found.get(user_id)
        gone = view is None or view.deleted
        data: Any = {"user_id": user_id, "gone": True} if view is None or gone else rendered(services, view)
        if told.is_new("container", user_id, data):
            out.append(Message("container", data))
    for chip in chips:
        shown = chip
        if lower_case:
            shown = msgspec.structs.replace(chip, status=chip.status.lower())
        if told.is_new("chip", chip.id, shown):
            out.append(Message("chip", shown))
    return out
