"""Limits over all processes: counted in Redis by one small script, and by each process alone while Redis is away.

Two things keep this off the path of most requests. A process takes several at once where the rule says so (`batch`)
and spends them without asking; and it remembers how long it was refused. So each process grants one batch more than
the limit at worst, and a caller who is over the limit costs Redis nothing.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import Final

from core.clients.cache import Cache
from core.clock import Clock, SystemClock
from core.domain import limits
from core.domain.limits import SLOTS, Counter, Limit, slot_length_ms

# Keys that one process remembers. Beyond it the oldest is forgotten: that costs a question to Redis, and while Redis
# is away a count.
_REMEMBERED: Final = 50_000

# core/domain/limits.py's `take`, by Redis' clock. ARGV: most, slot length in ms, slots, batch, the time in ms for
# tests (0 = now). Answers {granted, wait in ms}.
TAKE: Final = """
local most, slot_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
local slots, batch, now = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
if now == 0 then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local slot = math.floor(now / slot_ms)
local all, kept, left = redis.call('HGETALL', KEYS[1]), {}, most
for i = 1, #all, 2 do
  local at, count = tonumber(all[i]), tonumber(all[i + 1])
  if at < slot - slots or at > slot then
    redis.call('HDEL', KEYS[1], all[i])
  else
    kept[#kept + 1] = {at, count}
    left = left - count
  end
end
if left > 0 then
  local granted = math.min(batch, math.max(1, math.floor(left / 8)))
  redis.call('HINCRBY', KEYS[1], string.format('%.0f', slot), granted)
  redis.call('PEXPIRE', KEYS[1], (slots + 1) * slot_ms)
  return {granted, 0}
end
table.sort(kept, function(a, b) return a[1] < b[1] end)
for _, entry in ipairs(kept) do
  left = left + entry[2]
  if left > 0 then return {0, (entry[1] + slots + 1) * slot_ms - now} end
end
return {0, slots * slot_ms}
"""
# `give_back`: one less in the newest slot.
GIVE_BACK: Final = """
local newest = nil
for _, at in ipairs(redis.call('HKEYS', KEYS[1])) do
  if newest == nil or tonumber(at) > tonumber(newest) then newest = at end
end
if newest and redis.call('HINCRBY', KEYS[1], newest, -1) <= 0 then redis.call('HDEL', KEYS[1], newest) end
return 1
"""


@dataclass(slots=True)
class _Known:
    """What this process knows of one key; times on its monotonic clock.

    `left`: of the batch, to be spent until `spend_until`. `counter`: its own count while Redis is away.
    """

    left: int = 0
    spend_until: float = 0.0
    refused_until: float = 0.0
    counter: Counter = field(default_factory=Counter)
    asking: asyncio.Task[None] | None = None


class Limits:
    """Counts what is done under a limit."""

    def __init__(self, cache: Cache, clock: Clock | None = None, *, remembered: int = _REMEMBERED) -> None:
        self._cache = cache
        self._clock = clock or SystemClock()
        self._remembered = remembered
        self._known: dict[str, _Known] = {}
        self._asking: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End the questions that nobody waits for any more."""
        asking = tuple(self._asking)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def take(self, limit: Limit, key: str) -> int:
        """0 when one more may be done, which counts from now on; else whole seconds to wait. Never raises."""
        if limit.most <= 0:
            return 0
        name = f"limit:{limit.name}:{key}"
        known = self._known.get(name)
        if known is None:
            if len(self._known) >= self._remembered:
                del self._known[next(iter(self._known))]
            known = self._known[name] = _Known()
        while True:
            now = self._clock.monotonic()
            if known.left > 0 and now < known.spend_until:
                known.left -= 1
                return 0
            if now < known.refused_until:
                return max(1, math.ceil(known.refused_until - now))
            # One question for all that wait for its answer; who hangs up must not take it from the others.
            if known.asking is None:
                known.asking = asyncio.create_task(self._ask(limit, name, known))
                self._asking.add(known.asking)
                known.asking.add_done_callback(self._asking.discard)
            await asyncio.shield(known.asking)

    async def give_back(self, limit: Limit, key: str) -> None:
        """The one that was taken last does not count after all."""
        name = f"limit:{limit.name}:{key}"
        known = self._known.get(name)
        if known is not None:
            known.counter = limits.give_back(known.counter)
            known.refused_until = 0.0
        await self._cache.run(GIVE_BACK, name)

    async def forget(self, limit: Limit, key: str) -> None:
        """Nothing of this key counts any more."""
        name = f"limit:{limit.name}:{key}"
        self._known.pop(name, None)
        await self._cache.delete(name)

    async def _ask(self, limit: Limit, name: str, known: _Known) -> None:
        try:
            arguments = (limit.most, slot_length_ms(limit), SLOTS, limit.batch, 0)
            answer = await self._cache.run(TAKE, name, *arguments)
            now = self._clock.monotonic()
            if answer is None:
                alone = Limit(limit.name, limit.most, limit.window_s)
                taken = limits.take(known.counter, alone, int(now * 1000))
                known.counter = taken.counter
                granted, after_ms = taken.granted, taken.after_ms
            else:
                granted, after_ms = (int(number) for number in answer)
            known.left = granted
            known.spend_until = now + limit.window_s
            known.refused_until = now + after_ms / 1000
        finally:
            known.asking = None
