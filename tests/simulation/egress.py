"""The ways out of a seed with `egress=guard`: providers and their exits, and what each host's guard lets through.

A guard is told here in other words than in the product: a session comes out while its config names the container's
own allocation with a password that its node's guard takes, and while its chip's label carries something. Faults are
drawn from random numbers of their own, so that seeds without a guard stay what they were.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from core.clients.waha_models import WahaProxy
from core.domain.chip_credentials import matches, node_key, parse_chip_user
from core.domain.egress_errors import EgressError
from core.domain.guard_wire import Upstream
from core.domain.names import SESSION_PREFIX
from core.domain.routes import Reading
from core.store.notify import INTENTS
from tests.memory_store.rows import LabelRow, ProviderRow, SubUserRow
from tests.simulation.world import World
from tests.unit.daemon.system import SECRET

if TYPE_CHECKING:
    from tests.simulation.hosts import Container
    from tests.simulation.network import Wire

# One seed in five.
_EVERY, _WHICH = 5, 2
ADDRESS = "{host_ip}:3128"
READING_S = 8.0
_OF_LABEL = (EgressError.PROXY_UNREACHABLE, EgressError.NO_PEER, EgressError.PROXY_REFUSED)


class Egress:
    """Attributes:
    failing: why every reading through a provider fails now. bad: labels that carry nothing, by label.
    shared: the exit of labels that do not have one of their own.
    """

    # Kind -> how often it is drawn.
    WEIGHTS = {  # noqa: RUF012
        "readings_fail": 3,
        "label_goes_bad": 4,
        "provider_exhausted": 2,
        "sub_user_refused": 2,
        "sub_user_disabled": 3,
        "provider_disabled": 2,
        "exits_shared": 3,
        "label_asked_for": 4,
        "config_overwritten": 3,
    }

    def __init__(self, world: World) -> None:
        self.world = world
        self.guarded = world.seed % _EVERY == _WHICH
        self.random = Random(world.seed * 6007 + 5)
        self.failing: dict[str, EgressError] = {}
        self.bad: dict[str, EgressError] = {}
        self.shared: dict[str, str] = {}
        self._keys: dict[str, bytes] = {}
        self._until = 0.0

    def begin(self, busy_s: float) -> None:
        """Providers, and what befalls them up to `busy_s`."""
        if not self.guarded:
            return
        store, self._until = self.world.store, busy_s
        store.label_secret = SECRET
        for slug, users in (("local", (3, 40, 200)), ("spare", (200,))):
            store.add_provider(ProviderRow(slug, host="10.9.0.1", port=1080, is_default=slug == "local"))
            for number, most in enumerate(users):
                login = f"{slug}{number}"
                store.add_sub_user(SubUserRow(f"s-{login}", slug, login, "hunter2", max_labels=most))
        kinds = list(self.WEIGHTS)
        for kind in self.random.choices(kinds, list(self.WEIGHTS.values()), k=self.random.randint(4, 12)):
            self.world.loop.at(self.random.uniform(300.0, busy_s - 60.0), self._strike, kind)

    # --- guards -----------------------------------------------------------------------------------------
    def takes(self, container: Container, proxy: WahaProxy | None) -> bool:
        """Whether the guard of the container's host knows what the session shows it as its own."""
        if not self.guarded:
            return True
        if proxy is None or proxy.server != f"{container.host.address}:3128":
            return False
        chip_id, allocation_id = parse_chip_user(proxy.username)
        node = container.host.name
        if node not in self._keys:
            self._keys[node] = node_key(SECRET, node)
        row = self.world.store.labels.get(chip_id)
        hint = None if row is None else row.generation
        mine = matches(self._keys[node], chip_id, allocation_id, proxy.password, hint=hint)
        return mine and allocation_id == container.alloc.id

    def carries(self, name: str) -> bool:
        """Whether a tunnel of this session is opened now."""
        if not self.guarded:
            return True
        row = self.world.store.labels.get(name[len(SESSION_PREFIX) :])
        return row is not None and row.is_live and self._fault(row) is None

    def _fault(self, row: LabelRow) -> EgressError | None:
        if row.label in self.bad:
            return self.bad[row.label]
        route = self.world.store.route(row.chip_id)
        return self.failing.get(row.provider) or (route.unusable if route is not None else None)

    def label_changed(self, chip_id: str) -> None:
        """The guard closes the tunnels of a chip whose route is another one now."""
        self._drop(lambda row: row.chip_id == chip_id)

    def _drop(self, whose: Callable[[LabelRow], bool]) -> None:
        for chip_id, row in self.world.store.labels.items():
            if row.is_live and whose(row):
                self.world.waha.drop_connection(row.user_id, SESSION_PREFIX + chip_id)

    # --- exits ------------------------------------------------------------------------------------------
    def exit_of(self, upstream: Upstream) -> Reading:
        label = upstream.username.rpartition("-")[2]
        row = next((r for r in self.world.store.labels.values() if r.label == label), None)
        fault = EgressError.PROXY_AUTH if row is None else self._fault(row)
        self.world.counts["readings.failed" if fault else "readings.worked"] += 1
        return Reading(None, fault) if fault else Reading(self.shared.get(label, f"exit {label}"), None)

    # --- faults -----------------------------------------------------------------------------------------
    def _strike(self, kind: str) -> None:
        if getattr(self, kind)() is not False:
            self.world.faults[kind] += 1
            self.world.trace.note("EGRESS", "", kind)

    def _later(self, least_s: float, most_s: float, end: Callable[..., object], *args: object) -> None:
        at = min(self._until, self.world.now + self.random.uniform(least_s, most_s))
        self.world.loop.at(at, end, *args)

    def _live(self) -> list[LabelRow]:
        return [row for _, row in sorted(self.world.store.labels.items()) if row.is_live]

    def _news(self, *user_ids: str) -> None:
        for user_id in user_ids:
            self.world.network.store_news(INTENTS, user_id)

    def readings_fail(self) -> None:
        provider = self.random.choice(("local", "local", "spare"))
        self.failing[provider] = self.random.choice(_OF_LABEL)
        self._drop(lambda row: row.provider == provider and self.random.random() < 0.5)
        self._later(30.0, 600.0, self.failing.pop, provider, None)

    def label_goes_bad(self) -> bool:
        live = self._live()
        if not live:
            return False
        row = self.random.choice(live)
        self.bad[row.label] = self.random.choice(_OF_LABEL)
        self._drop(lambda one: one is row)
        self._later(600.0, 2500.0, self.bad.pop, row.label, None)
        return True

    def provider_exhausted(self) -> None:
        row = self.world.store.providers[self.random.choice(("local", "spare"))]
        row.trouble, row.trouble_at = EgressError.TRAFFIC_EXHAUSTED, self.world.moment()
        self._drop(lambda one: one.provider == row.slug)
        self._later(60.0, 900.0, setattr, row, "trouble", None)

    def sub_user_refused(self) -> None:
        row = self.world.store.sub_users[self.random.choice(sorted(self.world.store.sub_users))]
        row.trouble, row.trouble_at = EgressError.PROXY_AUTH, self.world.moment()
        self._drop(lambda one: one.sub_user_id == row.id)
        self._later(60.0, 900.0, setattr, row, "trouble", None)

    def sub_user_disabled(self) -> None:
        row = self.world.store.sub_users[self.random.choice(sorted(self.world.store.sub_users))]
        row.enabled = False
        self._drop(lambda one: one.sub_user_id == row.id)
        self._later(60.0, 900.0, setattr, row, "enabled", True)

    def provider_disabled(self) -> None:
        row, spare = self.world.store.providers["local"], self.world.store.providers["spare"]
        row.enabled = False
        if self.random.random() < 0.5:  # and chips go to another one
            row.is_default, spare.is_default = False, True
        self._drop(lambda one: one.provider == row.slug)
        self._later(30.0, 600.0, setattr, row, "enabled", True)

    def exits_shared(self) -> bool:
        """The provider gives two chips one exit; the second is read again when it starts."""
        live = [row for row in self._live() if row.exit_ip is not None]
        if len(live) < 2:
            return False
        first, second = self.random.sample(live, 2)
        assert first.exit_ip is not None
        self.shared[second.label] = first.exit_ip
        self._later(600.0, 3000.0, self.shared.pop, second.label, None)
        return True

    def label_asked_for(self) -> bool:
        live = self._live()
        if not live or "postgres" in self.world.network.down:
            return False
        row = self.random.choice(live)
        self.world.store.request_label(row.chip_id)
        self._news(row.user_id)
        return True

    def config_overwritten(self) -> bool:
        """Somebody with the container's key writes a config without our proxy."""
        waha = self.world.waha
        found = [
            held for _, of in sorted(waha.storage.items()) for _, held in sorted(of.items()) if held.proxy
        ]
        if not found:
            return False
        held = self.random.choice(found)
        held.proxy, held.proxy_at = None, self.world.now
        return True

    def calm(self) -> None:
        """Every way out is well again."""
        if not self.guarded:
            return
        self.failing.clear()
        self.bad.clear()
        self.shared.clear()
        for row in (*self.world.store.providers.values(), *self.world.store.sub_users.values()):
            row.enabled, row.trouble = True, None


class ExitsWire:
    """`daemon.ways_out.Exits`."""

    timeout_s = READING_S
    is_busy = False

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def read(self, upstream: Upstream) -> asyncio.Future[Any]:
        wire = self._wire
        world, future = wire.world, wire.world.loop.create_future()
        if not (wire.daemon.process.dead or wire.daemon.closing):
            took_s = world.egress.random.uniform(0.1, 2.0)
            world.loop.surely(took_s, self._answer, future, upstream)
        return future

    def _answer(self, future: asyncio.Future[Any], upstream: Upstream) -> None:
        if not future.done():
            future.set_result(self._wire.world.egress.exit_of(upstream))
