"""Effects of chips' ways out with `egress=guard`: labels, readings, and the credential that a session's config names.

Credentials are made and compared here and nowhere else: no fact, log line or piece of evidence ever holds one.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec
import structlog

from core.clients.waha_models import WahaProxy
from core.crypto import SecretUnreadable
from core.domain import actions as act
from core.domain.chip_credentials import chip_password, chip_user, node_key
from core.domain.egress_errors import EgressError
from core.domain.facts import AllocationFact
from core.domain.guard_wire import Upstream
from core.domain.routes import ChipRoute, NoRoute, Reading
from core.store.interface import Lease, ReconcileStore
from daemon.metrics import Metrics

HOST_IP: Final = "{host_ip}"
_KEPT: Final = 20_000

_log = structlog.get_logger(__name__)


class Place(msgspec.Struct, frozen=True):
    """Where a container runs: its allocation, the Nomad node, the host's own address."""

    allocation_id: str
    node_id: str
    host_ip: str


class Guards:
    """Where each host's guard listens for its containers, and what chips say to it.

    Args:
        address: host:port as a container sees it; `{host_ip}` stands for its host's address.
        secret: what nodes' keys are made from.
    """

    def __init__(self, address: str, secret: bytes) -> None:
        self._address = address
        self._secret = secret
        self._keys: dict[str, bytes] = {}
        # Each look at a user compares those of all its chips, and they seldom change.
        self._made: dict[tuple[Place, str, int], WahaProxy] = {}

    def proxy(self, place: Place, chip_id: str, generation: int) -> WahaProxy:
        """What the chip's session names as its proxy, in this place and with this generation of its label."""
        made = self._made.get((place, chip_id, generation))
        if made is None:
            if len(self._made) >= _KEPT:
                self._made.clear()
            made = self._made[place, chip_id, generation] = self._proxy(place, chip_id, generation)
        return made

    def _proxy(self, place: Place, chip_id: str, generation: int) -> WahaProxy:
        key = self._keys.get(place.node_id)
        if key is None:
            key = self._keys[place.node_id] = node_key(self._secret, place.node_id)
        host = f"[{place.host_ip}]" if ":" in place.host_ip else place.host_ip
        return WahaProxy(
            server=self._address.replace(HOST_IP, host),
            username=chip_user(chip_id, place.allocation_id),
            password=chip_password(key, chip_id, place.allocation_id, generation),
        )


class Exits(Protocol):
    """Where an upstream leaves. `core.clients.exit_reading.ExitReader` is one.

    Attributes:
        timeout_s: the longest that one reading takes. is_busy: as many go on as may.
    """

    @property
    def timeout_s(self) -> float: ...

    @property
    def is_busy(self) -> bool: ...

    async def read(self, upstream: Upstream) -> Reading:
        """Never raises."""


class WaysOut:
    """What a pass does for its chips' ways out.

    `exits`: None = none is read, and no reading is decided on.
    """

    def __init__(
        self, store: ReconcileStore, guards: Guards, exits: Exits | None, metrics: Metrics | None = None
    ) -> None:
        self._store = store
        self._exits = exits
        self._metrics = metrics or Metrics()
        self.guards = guards

    @property
    def reading_s(self) -> float:
        """The longest that one reading may take."""
        return self._exits.timeout_s if self._exits is not None else 0.0

    @property
    def is_busy(self) -> bool:
        """Whether as many exits are read as may be at once: slow ones must not keep every pass waiting."""
        return self._exits is not None and self._exits.is_busy

    async def do(self, lease: Lease, action: act.LabelAction, route: ChipRoute | None) -> EgressError | None:
        """Why it gave no way out, None when it did. Raises what the store raises. `route`: as the pass loaded it."""
        match action:
            case act.AssignLabel(chip_id=chip_id, why=why):
                given = await self._store.assign_label(lease, chip_id, why)
                return given.why if isinstance(given, NoRoute) else None
            case act.ReleaseLabel(chip_id=chip_id):
                await self._store.release_label(lease, chip_id)
                return None
            case act.ReadExit(chip_id=chip_id):
                return await self._read(lease, chip_id, route)

    async def _read(self, lease: Lease, chip_id: str, route: ChipRoute | None) -> EgressError | None:
        if self._exits is None or route is None:
            raise AssertionError("a pass decided to read an exit where there is none to be read")
        upstream = await self._upstream(chip_id)
        if isinstance(upstream, NoRoute):
            return upstream.why  # nobody looked, so nothing is known of the label
        reading = await self._exits.read(upstream)
        self._metrics.count_reading(reading)
        await self._store.record_reading(lease, chip_id, route.generation, reading)
        return reading.failure

    async def _upstream(self, chip_id: str) -> Upstream | NoRoute:
        try:
            return await self._store.upstream(chip_id)
        except SecretUnreadable as error:
            _log.error("sub_user_unreadable", chip_id=chip_id, code=error.code)
            return NoRoute(EgressError.NO_UPSTREAM)


def place_of(allocations: tuple[AllocationFact, ...], allocation_id: str) -> Place | None:
    """Where this allocation runs, as far as it is known."""
    found = next((one for one in allocations if one.id == allocation_id), None)
    if found is None or found.address is None:
        return None
    return Place(found.id, found.node_id, found.address)
