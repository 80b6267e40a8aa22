"""One container sampled for whoever looks into it: what it uses every 5 s, what it prints every 2 s."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote, urlsplit

import structlog

from core.clients.scheduler_look_ins import STREAMS, LookInScheduler
from core.clock import Clock
from core.domain.log_lines import Piece, Position, kept, take
from core.domain.look_ins import Look, What
from core.domain.names import TASK_NAME
from core.domain.redaction import Redactor
from core.errors import Missing
from core.settings import JobSettings
from core.store.interface import ContainerSecrets, Lease
from core.store.look_ins import LookIns

STATS_EVERY_S: Final = 5.0
LOGS_EVERY_S: Final = 2.0
# Of a log's end: so much for somebody who begins to look, and so much more at each further look.
_FIRST_BYTES: Final = 256 * 1024
_FURTHER_BYTES: Final = 64 * 1024
# A task that has just begun has no sample yet; so many rounds later its host measures none.
_UNMEASURED_UNTIL_TOLD: Final = 4

_log = structlog.get_logger(__name__)


class Sampler:
    """Samples one user's container round by round. Make a new one when the look begins anew."""

    def __init__(
        self,
        user_id: str,
        store: LookIns,
        scheduler: LookInScheduler,
        clock: Clock,
        redactor: Redactor,
    ) -> None:
        self._user_id = user_id
        self._store = store
        self._scheduler = scheduler
        self._clock = clock
        self._redactor = redactor
        self._next = dict.fromkeys(What, 0.0)
        self._unmeasured = 0
        self._measured: tuple[str, int] | None = None
        self._allocation: str | None = None  # whose log stands below
        self._lines: tuple[str, ...] = ()
        self._last_line = 0
        self._positions: dict[str, Position] = {}

    async def round(self, look: Look, lease: Lease) -> float:
        """Sample what is watched and due; seconds until the next round. What failed stays due.

        Raises what the scheduler and the store raise, but for what is merely not there.
        """
        now = self._clock.monotonic()
        if What.STATS in look.watched and now >= self._next[What.STATS]:
            await self._stats(look, lease)
            self._next[What.STATS] = now + STATS_EVERY_S
        if What.LOGS in look.watched and now >= self._next[What.LOGS]:
            await self._log(look, lease)
            self._next[What.LOGS] = now + LOGS_EVERY_S
        due = min((self._next[what] for what in look.watched), default=now + STATS_EVERY_S)
        return max(0.0, due - self._clock.monotonic())

    async def _stats(self, look: Look, lease: Lease) -> None:
        if look.allocation_id is None:
            return
        try:
            usage = await self._scheduler.usage(look.allocation_id)
        except Missing:
            self._unmeasured += 1
            if self._unmeasured == _UNMEASURED_UNTIL_TOLD:
                _log.warning("look_in_unmeasured", user_id=self._user_id, allocation_id=look.allocation_id)
            return
        self._unmeasured = 0
        measured = look.allocation_id, usage.taken_ns
        if measured == self._measured:
            return  # its task ended: Nomad goes on showing the last sample
        self._measured = measured
        await self._store.write_stats(
            lease, self._user_id, look.allocation_id, usage.cpu_percent, usage.memory_bytes
        )

    async def _log(self, look: Look, lease: Lease) -> None:
        allocation = look.last_allocation_id
        if allocation is None:
            return
        if allocation != self._allocation:
            await self._turn_to(allocation)
        most = _FURTHER_BYTES if self._positions else _FIRST_BYTES
        new: list[str] = []
        for stream in STREAMS:
            try:
                pieces = await self._scheduler.log(allocation, stream, most)
            except Missing:
                continue  # nothing was started yet
            new += self._taken(stream, pieces)
        if new:
            self._last_line += len(new)
            self._lines = kept((*self._lines, *new))
        await self._store.write_log(
            lease,
            self._user_id,
            allocation,
            TASK_NAME,
            self._lines if new else None,
            self._last_line,
            self._positions,
        )

    def _taken(self, stream: str, pieces: tuple[Piece, ...]) -> Iterable[str]:
        taken = take(pieces, self._positions.get(stream))
        if taken.position is not None:
            self._positions[stream] = taken.position
        return (line if isinstance(line, str) else self._redactor.clean(line) for line in taken.lines)

    async def _turn_to(self, allocation: str) -> None:
        """Go on where the daemon before us was, or begin with another allocation; numbers go on in any case."""
        stored = await self._store.log(self._user_id)
        same = stored is not None and stored.allocation_id == allocation
        self._lines = stored.lines if stored is not None and same else ()
        self._positions = dict(stored.positions) if stored is not None and same else {}
        self._last_line = stored.last_line if stored is not None else 0
        self._allocation = allocation


def known_secrets(secrets: ContainerSecrets, settings: JobSettings) -> frozenset[str]:
    """Everything secret that the container was given or could print, by value."""
    found = {secrets.api_key, secrets.hook_key}
    for dsn in settings.storages().values():
        address = urlsplit(dsn.reveal())
        if address.password:
            found |= {dsn.reveal(), address.password, unquote(address.password)}
    return frozenset(found)
