"""Users with their chips and phones. They press what the pages let them press, and change their minds."""

from __future__ import annotations

import uuid
from typing import Any

from core.domain.desired import Wanted
from core.domain.names import SESSION_PREFIX, chip_of_session
from core.errors import DomainError, Unavailable
from tests.simulation.hosts import Container
from tests.simulation.waha import Live
from tests.simulation.world import World, short

_PLANS = ("enterprise", "business", "free", "business")


class Owners:
    """`patient`: from then on every phone scans and every stranded chip is asked to connect again."""

    def __init__(self, world: World, count: int) -> None:
        self.world = world
        self.users = tuple(str(uuid.UUID(int=(0x5 << 96) | (number + 1))) for number in range(count))
        self.patient = False
        self.wrong_keys: set[str] = set()  # users whose next containers get a key that nobody knows
        self._chips = 0
        self._told: list[str] = []
        self._keys: dict[str, str] = {}
        self._namespaces: dict[str, str] = {}
        self._by_key: dict[str, str] = {}
        self._by_namespace: dict[str, str] = {}

    def begin(self, busy_s: float) -> None:
        """Let everybody live up to `busy_s`."""
        random = self.world.random
        for number, user_id in enumerate(self.users):
            self.world.store.add_user(user_id, _PLANS[number % len(_PLANS)])
            at = random.uniform(1.0, busy_s * 0.5)
            self.world.loop.at(at, self._arrive, user_id)
            for _ in range(random.randint(1, 5)):
                self.world.loop.at(random.uniform(at, busy_s), self._whim, user_id)

    # --- what a container is started with ---------------------------------------------------------------
    def container_key(self, user_id: str) -> str:
        if user_id in self.wrong_keys:
            self.wrong_keys.discard(user_id)
            return "a key that nobody knows"
        self._learn(user_id)
        return self._keys.get(user_id, "")

    def namespace(self, user_id: str) -> str:
        self._learn(user_id)
        return self._namespaces.get(user_id, "")

    def user_of_key(self, key: str) -> str:
        if key not in self._by_key:
            for user_id in self.users:
                self._learn(user_id)
        return self._by_key.get(key, "")

    def user_of_namespace(self, namespace: str) -> str:
        return self._by_namespace.get(namespace, "")

    def _learn(self, user_id: str) -> None:
        row = self.world.store.containers.get(user_id)
        if row is not None and self._keys.get(user_id) != row.secrets.api_key:
            self._keys[user_id] = row.secrets.api_key
            self._namespaces[user_id] = row.namespace
            self._by_key[row.secrets.api_key] = user_id
            self._by_namespace[row.namespace] = user_id

    # --- wishes -----------------------------------------------------------------------------------------
    def press(self, what: str, user_id: str, *args: Any, **options: Any) -> bool:
        """One call of the API; it refuses what it refuses, and is away when the store is."""
        if "postgres" in self.world.network.down:
            return False
        try:
            getattr(self.world.store, what)(user_id, *args, **options)
        except (DomainError, Unavailable) as error:
            self.world.trace.note("refused", short(user_id), f"{what} {error.code}")
            return False
        self.world.counts[f"wish.{what}"] += 1
        self.world.trace.note("wish", short(user_id), f"{what} {short(args[0]) if args else ''}")
        return True

    def _arrive(self, user_id: str) -> None:
        for _ in range(self.world.random.choice((1, 1, 1, 2, 3))):
            self._create(user_id)

    def _create(self, user_id: str) -> None:
        self._chips += 1
        chip_id = str(uuid.UUID(int=(0xC << 96) | self._chips))
        if self.press("create_chip", user_id, chip_id, f"chip {self._chips}"):
            self._learn(user_id)

    def chips(self, user_id: str) -> list[Any]:
        row = self.world.store.containers.get(user_id)
        return [chip for chip in row.chips if chip.deleted_at is None] if row else []

    def _whim(self, user_id: str) -> None:
        random, chips = self.world.random, self.chips(user_id)
        what = random.choices(
            ("create", "disconnect", "reconnect", "delete", "delete_all", "flicker"), (4, 4, 5, 4, 1, 1)
        )[0]
        if what == "create" or not chips:
            self._create(user_id)
            return
        chip = random.choice(chips)
        if what == "disconnect":
            self.press("disconnect_chip", user_id, chip.id)
        elif what == "reconnect":
            self.press("reconnect_chip", user_id, chip.id)
        elif what == "delete":
            self.press("delete_chip", user_id, chip.id)
        elif what == "delete_all":
            for one in chips:
                self.press("delete_chip", user_id, one.id)
            if random.random() < 0.5:
                self.world.loop.after(random.uniform(0.1, 300.0), self._create, user_id)
        else:
            # Pressed again and again within a pass or two.
            for number in range(4):
                name = "disconnect_chip" if number % 2 == 0 else "reconnect_chip"
                self.world.loop.after(number * random.uniform(0.01, 2.0), self.press, name, user_id, chip.id)

    def come_to_rest(self) -> None:
        """The quiet time: whoever is stranded presses Conectar."""
        self.patient = True
        for container in [c for host in self.world.hosts for c in host.containers.values()]:
            for name, live in container.sessions.items():
                if live.status == "SCAN_QR_CODE":
                    self.qr_shown(container, name, live, live.run)
        self._press_stranded()

    def _press_stranded(self) -> None:
        for user_id in self.users:
            for chip in self.chips(user_id):
                if chip.wanted is Wanted.CONNECTED and chip.phase in ("parked", "unlinked", "failed"):
                    # Told that others fail too, an owner who will not wait says that a new QR is fine.
                    fresh = chip.reason == "outage" and self._told.count(chip.id) >= 2
                    self._told.append(chip.id)
                    self.press("reconnect_chip", user_id, chip.id, fresh=fresh)
        self.world.loop.after(120.0, self._press_stranded)

    # --- phones -----------------------------------------------------------------------------------------
    def qr_shown(self, container: Container, name: str, live: Live, run: int) -> None:
        random = self.world.random
        if self.patient or random.random() < 0.7:
            longest = 40.0 if self.patient else 80.0
            after = random.uniform(5.0, longest)
            self.world.loop.after(after, self.world.waha.scan, container, name, live, run)

    def unlink_somebody(self) -> bool:
        paired = [
            (user_id, SESSION_PREFIX + chip.id)
            for user_id in self.users
            for chip in self.chips(user_id)
            if chip.observed.connected_at is not None
        ]
        if not paired:
            return False
        user_id, name = self.world.random.choice(paired)
        self.world.trace.note("unlink", short(user_id), short(chip_of_session(name) or ""))
        return self.world.waha.unlink(user_id, name)
