"""What befalls single chips and what is pressed meanwhile: flapping, dead credentials, deaf sessions, outages
of WhatsApp, bans. Drawn from random numbers of its own, so that it moves no other fault of a seed."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from core.domain.names import SESSION_PREFIX
from tests.simulation.waha import Stored
from tests.simulation.world import World, short

_FLAPS = 40


class ChipTroubles:
    """Each method is one trouble; what does not end by itself ends with a press, or an operator's word."""

    # Kind -> how often it is drawn.
    WEIGHTS = {  # noqa: RUF012
        "chip_flaps": 2,
        "credentials_die": 4,
        "session_deaf": 4,
        "whatsapp_refuses": 3,
        "chip_banned": 2,
        "pressed_fresh": 3,
        "phone_unlinks_and_press": 2,
    }

    def __init__(self, world: World, until: float) -> None:
        self.world = world
        self.until = until
        self.random = Random(world.seed * 7919 + 17)
        self.bans_for_good: set[str] = set()

    def plan(self, count: int, begin: float) -> None:
        kinds = list(self.WEIGHTS)
        for kind in self.random.choices(kinds, list(self.WEIGHTS.values()), k=count):
            self.world.loop.at(self.random.uniform(begin, self.until - 5.0), self._strike, kind)

    def _strike(self, kind: str) -> None:
        chip = self._connected_chip()
        if chip is not None:
            self.world.faults[kind] += 1
            self.world.trace.note("TROUBLE", short(chip.user_id), f"{kind} {short(chip.id)}")
            getattr(self, kind)(chip)

    def _later(self, least_s: float, most_s: float, end: Callable[..., object], *args: Any) -> None:
        at = min(self.until, self.world.now + self.random.uniform(least_s, most_s))
        self.world.loop.at(at, end, *args)

    def _connected_chip(self) -> Any:
        found = [
            chip
            for user_id in self.world.owners.users
            for chip in self.world.owners.chips(user_id)
            if chip.phase == "connected"
        ]
        return self.random.choice(found) if found else None

    def _stored(self, chip: Any) -> Stored | None:
        held = self.world.waha.storage.get(self.world.owners.namespace(chip.user_id), {})
        return held.get(SESSION_PREFIX + chip.id)

    def _press(self, chip: Any, *, fresh: bool = False) -> None:
        if chip.id in self.world.store.chips:
            self.world.owners.press("reconnect_chip", chip.user_id, chip.id, fresh=fresh)

    def chip_flaps(self, chip: Any) -> None:
        """It comes up and falls back again and again, for its own reasons."""
        at = self.world.now
        for _ in range(_FLAPS):
            at += self.random.uniform(8.0, 20.0)
            if at < self.until:
                self.world.loop.at(at, self.world.waha.fail, chip.user_id, SESSION_PREFIX + chip.id)

    def credentials_die(self, chip: Any) -> None:
        """WhatsApp takes them no more, nobody unlinked the device, and no other chip has anything."""
        stored = self._stored(chip)
        if stored is not None and stored.paired:
            stored.dead = True
            self.world.waha.fail(chip.user_id, SESSION_PREFIX + chip.id)
            self._later(60.0, 400.0, self._press, chip)

    def session_deaf(self, chip: Any) -> None:
        gap_s = chip.observed.memory.rhythm.gap_s
        if not self.world.waha.deafen(chip.user_id, SESSION_PREFIX + chip.id, gap_s):
            self.world.faults["session_deaf"] -= 1

    def whatsapp_refuses(self, chip: Any) -> None:
        """Nobody on one host gets in for a while, and owners press."""
        hosts = {c.host for c in self.world.waha.containers_of(chip.user_id)}
        users = {c.user for host in hosts for c in host.containers.values()}
        for user_id in sorted(users):
            self.world.waha.refused.add(user_id)
            self.world.waha.fail(user_id)
            for one in self.world.owners.chips(user_id):
                if self.random.random() < 0.5:
                    self._later(20.0, 60.0, self._press, one)
        self._later(200.0, 400.0, self.world.waha.refused.difference_update, users)

    def chip_banned(self, chip: Any) -> None:
        self._press_operator("ban_chip", chip.id, banned=True)
        for _ in range(3):
            self._later(5.0, 300.0, self._press, chip)
        if self.random.random() < 0.4:
            self.bans_for_good.add(chip.id)
        else:
            self._later(60.0, 600.0, self._lift, chip.id)

    def pressed_fresh(self, chip: Any) -> None:
        """Disconnected, and a minute later wanted back with a new QR."""
        self.world.owners.press("disconnect_chip", chip.user_id, chip.id)
        self.world.loop.after(self.random.uniform(0.1, 90.0), lambda: self._press(chip, fresh=True))

    def phone_unlinks_and_press(self, chip: Any) -> None:
        self.world.waha.unlink(chip.user_id, SESSION_PREFIX + chip.id)
        self._later(1.0, 200.0, self._press, chip)

    # --- operators --------------------------------------------------------------------------------------
    def _press_operator(self, what: str, chip_id: str, **options: Any) -> None:
        chip = self.world.store.chips.get(chip_id)
        if chip is None or chip.deleted_at is not None or "postgres" in self.world.network.down:
            return
        getattr(self.world.store, what)(chip_id, **options)
        self.world.counts[f"wish.{what}"] += 1
        self.world.trace.note("operator", short(chip.user_id), f"{what} {short(chip_id)} {options}")

    def _lift(self, chip_id: str) -> None:
        self._press_operator("ban_chip", chip_id, banned=False)

    def calm(self) -> None:
        """What only an operator ends is ended; a few stay banned to the end."""
        self.world.waha.refused.clear()
        for chip_id, chip in sorted(self.world.store.chips.items()):
            if chip.banned_at is not None and chip_id not in self.bans_for_good:
                self._lift(chip_id)
            if chip.phase == "quarantined":
                self._press_operator("release_chip", chip_id)
        if self.world.now < self.until + 900.0:
            self.world.loop.after(120.0, self.calm)
