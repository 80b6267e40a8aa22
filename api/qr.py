"""The QR of a chip: from the cache, else from the container, in one flight for all pollers of all replicas.

A poll never changes a session. It is answered within `_PATIENCE_S`, whatever Redis and WAHA do meanwhile;
a call that takes longer goes on behind it and fills the cache for the next poll.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import msgspec
import structlog

from api.errands import Errands
from api.schemas import QrCode
from api.vault import Vault
from core.clients.cache import Beside, Cache
from core.clients.endpoint_cache import EndpointCache, endpoint_key
from core.clients.qr_cache import CachedQr, QrCache, Turn, code_keys, flight_key, viewer_key
from core.clients.waha import KEY_REJECTED, WahaClient, WahaClients, WrongState
from core.clock import Clock
from core.domain.facts import Endpoint, WahaStatus
from core.domain.names import session_name
from core.domain.qr_view import (
    SCAN,
    UNREACHABLE,
    qr_expires_at,
    qr_set_began_at,
    qr_state,
    told_by_waha,
)
from core.domain.views import StoredChip
from core.errors import DependencyError, Missing, Rejected, Unavailable
from core.store import queries
from core.store.engine import Engine

T = TypeVar("T")

# A poll's answer is due within 2 s; what is left is for the store and the network.
_PATIENCE_S: Final = 1.4
# WAHA holds a call for up to 15 s until there is a QR.
_CALL_TIMEOUT_S: Final = 16.0
# How long those who waited for a flight elsewhere may pick up what it brought.
_LANDED_TTL_S: Final = 1.0
_VIEWER_TTL_S: Final = 15.0
_VIEWER_RENEWED_S: Final = 8.0  # no later than the poll after it, the mark is renewed while it still stands
_CHANGES_WITHIN_S: Final = 1.0
_LOOK_AGAIN_S: Final = 0.1
_VIEWED_LIMIT: Final = 10_000
_DATA_URL: Final = "data:image/png;base64,"

_log = structlog.get_logger("api.qr")


class _Access(msgspec.Struct, frozen=True):
    endpoint: Endpoint
    api_key: str

    def __repr__(self) -> str:
        return f"_Access({self.endpoint!r})"


class QrDesk:
    """Answers QR polls."""

    def __init__(
        self,
        *,
        engine: Engine,
        cache: Cache,
        codes: QrCache,
        endpoints: EndpointCache,
        waha: WahaClients,
        vault: Vault,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._cache = cache
        self._endpoints = endpoints
        self._hits = self._misses = 0
        self._codes = codes
        self._waha = waha
        self._vault = vault
        self._clock = clock
        self._keys: dict[str, str] = {}
        self._viewed: dict[str, float] = {}
        self._flights: dict[str, asyncio.Task[CachedQr | None]] = {}
        self._errands = Errands()

    async def answer(self, chip: StoredChip) -> QrCode:
        """What the route gives for a chip as the store holds it now."""
        self._mark_viewer(chip.id)
        state = qr_state(chip, self._clock.now())
        if not state.ask:
            return _said(state.status, state.message)
        found = await self._within_patience(chip)
        if found is None:
            return _said(None, state.message)
        if found.png_base64 is None:
            told = told_by_waha(found.waha_status, chip.phase)
            return _said(told.status, told.message)
        url = _DATA_URL + found.png_base64
        return QrCode(url, url, found.expires_at, WahaStatus.SCAN_QR_CODE.value, SCAN)

    async def forget(self, user_id: str) -> None:
        """Something about the user's container changed: the endpoint is read from the store again."""
        self._keys.pop(user_id, None)
        await self._endpoints.drop(user_id)

    def forget_soon(self, user_id: str) -> None:
        """As `forget`, for who cannot wait; this process forgets at once."""
        self._keys.pop(user_id, None)
        self._errands.run(self._endpoints.drop(user_id))

    def forget_all(self) -> None:
        """News may have been missed: no remembered endpoint of any user counts in this process."""
        self._keys.clear()

    async def forget_chip(self, chip_id: str) -> None:
        """A new wish: what was shown for the old one must not come again."""
        await self._codes.drop(chip_id)

    @property
    def cache_counts(self) -> tuple[int, int]:
        """How many codes stood in the cache, and how many had to be fetched, since the process began."""
        return self._hits, self._misses

    async def fetch(self, chip: StoredChip) -> None:
        """Have the code at hand before it is polled for; returns after as long as a poll would. Never raises."""
        if (flight := self._flights.get(chip.id)) is not None:
            # Begun before the news: it may bring the code before.
            await asyncio.wait((flight,), timeout=_PATIENCE_S)
        await asyncio.wait((self._begun(chip),), timeout=_PATIENCE_S)

    async def close(self) -> None:
        flights = tuple(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, self._errands.close(), return_exceptions=True)

    def _mark_viewer(self, chip_id: str) -> None:
        now = self._clock.monotonic()
        if now - self._viewed.get(chip_id, -_VIEWER_RENEWED_S) < _VIEWER_RENEWED_S:
            return
        if len(self._viewed) >= _VIEWED_LIMIT:
            self._viewed.clear()
        self._viewed[chip_id] = now
        self._errands.run(self._cache.set(viewer_key(chip_id), b"1", _VIEWER_TTL_S))

    async def _within_patience(self, chip: StoredChip) -> CachedQr | None:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + _PATIENCE_S
        flight = self._flights.get(chip.id)
        if flight is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_S / 2):
                    found, _ = await self._codes.look(chip.user_id, chip.id)
                if found is not None:
                    self._hits += 1
                    return found
            # Somebody else may have begun meanwhile.
            flight = self._flights.get(chip.id)
        if flight is None:
            flight = self._begun(chip)
        done, _ = await asyncio.wait((flight,), timeout=ends_at - loop.time())
        return flight.result() if done and not flight.cancelled() else None

    def _begun(self, chip: StoredChip) -> asyncio.Task[CachedQr | None]:
        """The flight for the chip's code: the one that is under way, or a new one."""
        flight = self._flights.get(chip.id)
        if flight is None:
            flight = self._flights[chip.id] = asyncio.create_task(self._fly(chip))
            flight.add_done_callback(lambda _: self._flights.pop(chip.id, None))
        return flight

    async def _fly(self, chip: StoredChip) -> CachedQr | None:
        """Never raises: what went wrong is in the log, and in the answer as a sentence."""
        beside = Beside(*code_keys(chip.user_id, chip.id), endpoint_key(chip.user_id))
        try:
            body = await self._cache.single_flight(
                flight_key(chip.id),
                _LANDED_TTL_S,
                lambda: self._produced(chip, beside),
                wait_s=_PATIENCE_S,
                beside=beside,
            )
            return None if body is None else msgspec.json.decode(body, type=CachedQr)
        except DependencyError as error:
            _log.warning("qr_unavailable", chip_id=chip.id, code=error.code, error=error.message)
        except Exception:
            _log.exception("qr_failed", chip_id=chip.id)
        return None

    async def _produced(self, chip: StoredChip, beside: Beside) -> bytes:
        *code, where = beside.found
        known, turn = await self._settled(chip, code)
        if known is not None:
            # Another process brought it since its own flight for it was looked for.
            return msgspec.json.encode(known)
        self._misses += 1
        endpoint = await self._endpoints.read(chip.user_id, where)
        found = await self._asked(chip.user_id, endpoint, lambda client: self._ask(client, chip))
        if found.png_base64 is None:
            return msgspec.json.encode(found)
        if turn is not None:
            found = msgspec.structs.replace(found, expires_at=turn.ends_at)
        beside.kept |= self._codes.entry(chip.id, found, turn)
        return msgspec.json.encode(found)

    async def _settled(
        self, chip: StoredChip, written: Sequence[bytes | None]
    ) -> tuple[CachedQr | None, Turn | None]:
        """As `look`, and not in the last moments of a turn: news of the next one is waited for.

        What is asked for then may be either code. Taken for the old one it is asked for again a moment later; and
        the old one itself would be gone before anybody has scanned it.
        """
        known, turn = await self._codes.read(chip.user_id, chip.id, written)
        while True:
            if known is not None or turn is None:
                return known, turn
            left_s = (turn.ends_at - self._clock.now()).total_seconds()
            if not -_CHANGES_WITHIN_S < left_s < _CHANGES_WITHIN_S:
                return known, turn
            await self._clock.sleep(_LOOK_AGAIN_S)
            known, turn = await self._codes.look(chip.user_id, chip.id)

    async def pairing_code(self, chip: StoredChip, phone: str, timeout_s: float) -> str:
        """A pairing code for `phone` (digits with country code), kept nowhere.

        Raises WrongState while the session shows no QR, and DependencyError as the client does.
        """
        name = session_name(chip.id)
        endpoint = await self._endpoints.get(chip.user_id)
        return await self._asked(
            chip.user_id, endpoint, lambda client: client.request_code(name, phone, timeout_s)
        )

    async def _asked(
        self, user_id: str, endpoint: Endpoint | None, ask: Callable[[WahaClient], Awaitable[T]]
    ) -> T:
        """Ask the container; when it does not answer, believe the store once more about where it is.

        `endpoint`: where it is remembered to be.
        """
        access = await self._access(user_id, endpoint)
        try:
            return await ask(self._at(access))
        except (Unavailable, Rejected, Missing) as error:
            if isinstance(error, Rejected) and error.code != KEY_REJECTED:
                raise
            await self.forget(user_id)
            again = await self._access(user_id, None)
            if again == access:
                raise
            return await ask(self._at(again))

    def _at(self, access: _Access) -> WahaClient:
        return self._waha.at(access.endpoint.address, access.endpoint.port, access.api_key)

    async def _ask(self, client: WahaClient, chip: StoredChip) -> CachedQr:
        try:
            code = await client.qr(session_name(chip.id), timeout_s=_CALL_TIMEOUT_S)
        except WrongState as error:
            if error.status is None:
                raise
            # The store is a moment behind: the session's own word is newer.
            return CachedQr(None, error.status.value, self._clock.now())
        now = self._clock.now()
        expires_at = qr_expires_at(qr_set_began_at(chip), now)
        return CachedQr(base64.b64encode(code.png).decode(), WahaStatus.SCAN_QR_CODE.value, expires_at)

    async def _access(self, user_id: str, endpoint: Endpoint | None) -> _Access:
        key = self._keys.get(user_id)
        if key is not None and endpoint is not None:
            return _Access(endpoint, key)
        stored = await queries.sealed_access(self._engine, user_id)
        if stored is None or stored.endpoint is None:
            raise Unavailable("waha", "the container has no endpoint", code="no_endpoint")
        key = self._keys[user_id] = self._vault.open(user_id, stored.sealed_api_key)
        await self._endpoints.put(user_id, stored.endpoint)
        return _Access(stored.endpoint, key)


def _said(status: str | None, message: str) -> QrCode:
    return QrCode(None, None, None, status, message or UNREACHABLE)
