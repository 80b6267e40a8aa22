"""The cache: Redis when it is there, and the same answers without it, only slower.

Nothing is kept here alone. A read that fails is a miss, a write that fails is forgotten, and after a
failure Redis is left alone for a short while, so that a dead one costs a request nothing. What must be
shared by all replicas but only for speed (one flight for one QR) falls back to this process's own memory; who
counts in Redis is told that it is away and counts alone (core/clients/limits.py).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

import redis.asyncio
import redis.exceptions
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from core.clients.patience import Patience
from core.clock import Clock, SystemClock

_CONNECTIONS: Final = 32
_CLOSE_S: Final = 10.0
_POLL_FIRST_S: Final = 0.02
_POLL_CAP_S: Final = 0.25
_OWED_LIMIT: Final = 10_000

# The lock, if nobody has it, and what stands under the other keys then.
_BEGIN: Final = """
local mine = redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
return {mine and 1 or 0, redis.call('MGET', unpack(KEYS, 2))}
"""
# Keeps values. Deletes the lock only for who still holds it: it may have expired and be somebody else's by now.
_LAND: Final = """
for i = 2, #KEYS do redis.call('SET', KEYS[i], ARGV[2 * i - 2], 'PX', ARGV[2 * i - 1]) end
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
# Keeps a value under each of the first keys, and deletes the rest.
_CHANGE: Final = """
local kept = #ARGV / 2
for i = 1, kept do redis.call('SET', KEYS[i], ARGV[2 * i - 1], 'PX', ARGV[2 * i]) end
if #KEYS > kept then redis.call('DEL', unpack(KEYS, kept + 1)) end
return 1
"""

Kept: TypeAlias = Mapping[str, tuple[bytes, float]]
"""Key -> value, and for how many seconds it is kept."""

_log = structlog.get_logger(__name__)


class _AwayError(Exception):
    """Redis is off, failed just now, or failed so recently that it was not asked."""


class Beside:
    """What a flight reads with its beginning and keeps with its landing, for no round trip more.

    Attributes:
        found: what stood under each of `keys` when the flight was begun; None for all while Redis is away.
        kept: to be kept when it lands. The producer fills it.
    """

    def __init__(self, *keys: str) -> None:
        self.keys = keys
        self.found: list[bytes | None] = [None] * len(keys)
        self.kept: dict[str, tuple[bytes, float]] = {}


class Cache:
    """Short-lived values shared by all processes.

    Args:
        url: `redis://...`, or None to run without Redis.
        prefix: put before every key, so that several fleets can share one server.
        timeout_s: the most one operation may cost.
        cooldown_s: how long Redis is left alone after a failure.
    """

    def __init__(
        self,
        url: str | None,
        *,
        prefix: str = "wahafleet:",
        timeout_s: float = 0.25,
        cooldown_s: float = 2.0,
        clock: Clock | None = None,
    ) -> None:
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._cooldown_s = cooldown_s
        self._clock = clock or SystemClock()
        self._client = None if url is None else _client(url)
        self._away_until: float | None = None
        self._flights: dict[str, asyncio.Task[bytes | None]] = {}
        self._scripts: dict[str, Any] = {}
        self._owed: set[str] = set()

    @property
    def configured(self) -> bool:
        """False when this process runs without Redis."""
        return self._client is not None

    @property
    def healthy(self) -> bool:
        """True while Redis is configured and its last operation worked."""
        return self._client is not None and self._away_until is None

    async def ping(self) -> bool:
        """Ask Redis for a sign of life now, unless it failed only just; what `healthy` is afterwards."""
        try:
            await self._ask(lambda client: client.ping())
        except _AwayError:
            return False
        return self.healthy

    async def get(self, key: str) -> bytes | None:
        """The value, or None for none, for an expired one and for a Redis that is away."""
        name = self._prefix + key
        try:
            value: bytes | None = await self._ask(lambda client: client.get(name))
        except _AwayError:
            return None
        return value

    async def get_many(self, *keys: str) -> list[bytes | None]:
        """As `get`, each of them in one round trip."""
        names = [self._prefix + key for key in keys]
        try:
            values: list[bytes | None] = await self._ask(lambda client: client.mget(names))
        except _AwayError:
            return [None] * len(keys)
        return values

    async def set(self, key: str, value: bytes, ttl_s: float) -> bool:
        """Keep `value` for `ttl_s` seconds; a time that is over already drops the key instead.

        False when Redis is away and it was not kept.
        """
        ttl_ms = round(ttl_s * 1000)
        if ttl_ms <= 0:
            await self.delete(key)
            return True
        name = self._prefix + key
        try:
            await self._ask(lambda client: client.set(name, value, px=ttl_ms))
        except _AwayError:
            return False
        return True

    async def change(self, kept: Kept, forgotten: Iterable[str] = ()) -> bool:
        """As `set` and `delete`, all of them in one round trip. False when Redis is away: what was to be kept is not."""
        good = _lasting(kept)
        over = [*forgotten, *(key for key in kept if key not in good)]
        if not good:
            await self.delete(*over)
            return self.healthy
        names = [self._prefix + key for key in (*good, *over)]
        values = [part for pair in good.values() for part in pair]
        try:
            await self._ask(lambda client: client.eval(_CHANGE, len(names), *names, *values))
        except _AwayError:
            await self.delete(*over)  # owed
            return False
        return True

    async def delete(self, *keys: str) -> None:
        """Forget the values. What cannot be deleted now is deleted before Redis is believed again."""
        if not keys or self._client is None:
            return
        names = [self._prefix + key for key in keys]
        try:
            await self._ask(lambda client: client.delete(*names))
        except _AwayError:
            # Bounded: past the limit an entry lives on until its time is over, as every reader must allow.
            if len(self._owed) < _OWED_LIMIT:
                self._owed.update(names)

    async def single_flight(
        self,
        key: str,
        ttl_s: float,
        producer: Callable[[], Awaitable[bytes | None]],
        wait_s: float,
        *,
        lock_ttl_s: float = 20.0,
        beside: Beside | None = None,
    ) -> bytes | None:
        """The value of `key`; when there is none, one caller of all processes makes it with `producer`.

        The maker waits as long as `producer` takes and raises what it raises, as do callers of the same
        process that joined it; everybody else waits at most `wait_s` and gets None then. A value is kept
        for `ttl_s`; None from the producer is not kept. `lock_ttl_s` should outlast the producer: after
        it another process may start a second one. `beside`: of the flight, if this call begins one.
        """
        running = self._flights.get(key)
        if running is not None:
            done, _ = await asyncio.wait((running,), timeout=wait_s)
            return running.result() if done and not running.cancelled() else None
        # A task of its own: a caller who hangs up must not take the others' answer away.
        flight = asyncio.create_task(self._fly(key, ttl_s, producer, wait_s, lock_ttl_s, beside or Beside()))
        self._flights[key] = flight
        flight.add_done_callback(lambda ended: self._landed(key, ended))
        return await asyncio.shield(flight)

    async def run(self, script: str, key: str, *arguments: float) -> Any:
        """What the Lua `script` answers for one key; None while Redis is away. The script never answers nil."""
        name = self._prefix + key
        if self._client is None:
            return None
        if script not in self._scripts:
            self._scripts[script] = self._client.register_script(script)
        prepared = self._scripts[script]  # sent whole only to a server that has not seen it yet
        try:
            return await self._ask(lambda client: prepared(keys=[name], args=arguments, client=client))
        except _AwayError:
            return None

    async def close(self) -> None:
        """End running flights and connections."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def _fly(
        self,
        key: str,
        ttl_s: float,
        producer: Callable[[], Awaitable[bytes | None]],
        wait_s: float,
        lock_ttl_s: float,
        beside: Beside,
    ) -> bytes | None:
        lock, token = f"{self._prefix}lock:{key}", secrets.token_hex(16)
        deadline = self._clock.monotonic() + wait_s
        pause_s = _POLL_FIRST_S
        while True:
            mine, value = await self._begin(lock, token, key, lock_ttl_s, beside)
            if mine or value is not None:
                break
            if self._clock.monotonic() >= deadline:
                return None
            await self._clock.sleep(pause_s)
            pause_s = min(_POLL_CAP_S, pause_s * 1.5)
        kept: dict[str, tuple[bytes, float]] = {}
        try:
            if value is None:
                value = await producer()
                kept = beside.kept
                if value is not None:
                    kept = {**kept, key: (value, ttl_s)}
            return value
        finally:
            if mine:
                await self._land(lock, token, kept)

    async def _begin(
        self, lock: str, token: str, key: str, lock_ttl_s: float, beside: Beside
    ) -> tuple[bool, bytes | None]:
        """Whether the flight is ours, and what another one has brought."""
        names = [lock, *(self._prefix + one for one in (key, *beside.keys))]
        lock_ms = round(lock_ttl_s * 1000)
        try:
            mine, (value, *found) = await self._ask(
                lambda client: client.eval(_BEGIN, len(names), *names, token, lock_ms)
            )
        except _AwayError:
            return True, None  # nobody to agree with: one flight per process is what is left
        beside.found = found
        return bool(mine), value

    async def _land(self, lock: str, token: str, kept: Kept) -> None:
        """Keep what was brought, if anything, and give the lock back."""
        good = _lasting(kept)
        names = [lock, *(self._prefix + key for key in good)]
        values = [part for pair in good.values() for part in pair]
        try:
            await self._ask(lambda client: client.eval(_LAND, len(names), *names, token, *values))
        except _AwayError:
            return  # it expires by itself

    def _landed(self, key: str, flight: asyncio.Task[bytes | None]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # retrieved, in case every caller has hung up

    async def _ask(self, operation: Callable[[redis.asyncio.Redis], Any]) -> Any:
        """Run one operation. Raises _AwayError and nothing else."""
        client = self._client
        if client is None:
            raise _AwayError
        now = self._clock.monotonic()
        if self._away_until is not None:
            if now < self._away_until:
                raise _AwayError
            # This one tries; the others go on without Redis until it has an answer.
            self._away_until = now + self._cooldown_s
        try:
            async with Patience(self._timeout_s):
                if self._owed:
                    owed = tuple(self._owed)
                    await client.delete(*owed)
                    self._owed.difference_update(owed)
                result = await operation(client)
        except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
            self._failed(error)
            raise _AwayError from error
        if self._away_until is not None:
            self._away_until = None
            _log.info("cache_returned")
        return result

    def _failed(self, error: Exception) -> None:
        if self._away_until is None:
            _log.warning("cache_away", error=type(error).__name__, cooldown_s=self._cooldown_s)
        self._away_until = self._clock.monotonic() + self._cooldown_s


def _lasting(kept: Kept) -> dict[str, tuple[bytes, int]]:
    """What is not over already, with its time in milliseconds."""
    return {key: (value, ms) for key, (value, ttl_s) in kept.items() if (ms := round(ttl_s * 1000)) > 0}


def _client(url: str) -> redis.asyncio.Redis:
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        # How long all of an operation may take is ours to say; the library's own timers for each step of it would
        # take a process that was held up for a server that is away, and each costs more than the step.
        timeout=None,
        socket_timeout=None,
        # Far beyond an operation's time, for the same reason; it also ends the wait for a connection to close.
        socket_connect_timeout=_CLOSE_S,
        # Trying again is our cool-down's business; the library's own retries would multiply the timeout.
        retry=Retry(NoBackoff(), 0),
    )
    return redis.asyncio.Redis.from_pool(pool)
