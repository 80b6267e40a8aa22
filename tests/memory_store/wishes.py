"""What users and operators wish, with the rules of core/store/intents.py."""

from __future__ import annotations

from datetime import datetime, timedelta

from core.domain.desired import Consent, Wanted
from core.domain.quota import Refusal, Standing, refusal, refusal_text
from core.domain.views import StoredChip, StoredContainer, reconnect_is_under_way
from core.errors import Conflict, NotFound, QuotaExceeded
from core.store.chips_admin import BAN_LIFTED, BAN_SET, RELEASED
from core.store.containers_admin import NOTHING_TO_RESTART
from core.store.intents import USER_GONE, unknown_chip
from core.store.notify import INBOX, INTENTS
from tests.memory_store.database import PLANS, Database, new_chip_columns, new_container
from tests.memory_store.rows import Chip, Container, User


class Wishes(Database):
    """Each method is one committed transaction of the API."""

    def add_user(self, user_id: str, plan: str = "enterprise", email: str = "dono@example.com") -> None:
        self.users[user_id] = User(user_id, email, PLANS[plan])

    def create_chip(self, user_id: str, chip_id: str, alias: str) -> None:
        """Raises Conflict (`alias_taken`), QuotaExceeded (`chip_limit`), NotFound for an unknown user."""
        self.up()
        user = self.users.get(user_id)
        if user is None:
            raise NotFound(USER_GONE)
        container = self.containers.get(user_id)
        live = [chip for chip in container.chips if chip.deleted_at is None] if container else []
        standing = Standing(
            alias_taken=any(chip.alias.lower() == alias.lower() for chip in live),
            chips=len(live),
            max_chips=user.plan.max_chips,
            proxy_bytes=self.proxy_bytes.get(user_id, 0),
            proxy_limit_gb=user.plan.proxy_gb_limit,
        )
        refused = refusal(standing)
        if refused is not None:
            error = Conflict if refused is Refusal.ALIAS_TAKEN else QuotaExceeded
            raise error(refusal_text(refused, standing), code=refused.value)
        self._insert_chip(user_id, chip_id, alias)

    def add_chip(self, user_id: str, chip_id: str) -> None:
        """A chip under an alias of its own; the user is made when there is none."""
        if user_id not in self.users:
            self.add_user(user_id)
        self.create_chip(user_id, chip_id, chip_id)

    def delete_chip(self, user_id: str, chip_id: str) -> None:
        """Raises NotFound."""
        self.up()
        chip, now = self._found(user_id, chip_id), self.clock.now()
        self._wish(chip, now, Wanted.DELETED)
        chip.deleted_at = now
        self.record_event(chip, now, chip.generation, "system", "chip_deleted", "Chip excluído.", {})
        self.tell(INTENTS, user_id)

    def disconnect_chip(self, user_id: str, chip_id: str) -> None:
        """A second time changes nothing. Raises NotFound."""
        self.up()
        chip, now = self._found(user_id, chip_id), self.clock.now()
        if chip.wanted is Wanted.DISCONNECTED:
            return
        self._wish(chip, now, Wanted.DISCONNECTED)
        code, text = "disconnect_requested", "Desconexão solicitada."
        self.record_event(chip, now, chip.generation, "info", code, text, {})
        self.tell(INTENTS, user_id)

    def reconnect_chip(self, user_id: str, chip_id: str, *, fresh: bool = False) -> None:
        """Nothing changes while WAHA was seen at work on that very wish. Raises NotFound."""
        self.up()
        chip, now = self._found(user_id, chip_id), self.clock.now()
        if reconnect_is_under_way(self.shown(chip)):
            return
        self.ensure_container(user_id)
        self._wish(chip, now, Wanted.CONNECTED, Consent.FRESH if fresh else Consent.PRESS)
        code, text = "reconnect_requested", "Reconexão solicitada."
        self.record_event(chip, now, chip.generation, "reconnect", code, text, {"fresh": fresh})
        self.tell(INTENTS, user_id)

    def ban_chip(self, chip_id: str, *, banned: bool = True, by: str = "operator") -> bool:
        """See core/store/chips_admin.py."""
        self.up()
        chip, now = self._live(chip_id), self.clock.now()
        if (chip.banned_at is not None) == banned:
            return False
        chip.banned_at = now if banned else None
        self._administered(chip, now, *(BAN_SET if banned else BAN_LIFTED), by)
        return True

    def release_chip(self, chip_id: str, *, by: str = "operator") -> bool:
        """See core/store/chips_admin.py."""
        self.up()
        chip, now = self._live(chip_id), self.clock.now()
        since = chip.observed.memory.breaker.quarantined_generation
        if since is None or chip.released_generation > since:
            return False
        chip.released_generation = self._administered(chip, now, *RELEASED, by)
        return True

    def _administered(self, chip: Chip, now: datetime, code: str, text: str, by: str) -> int:
        generation = self._next_generation(self.containers[chip.user_id])
        self.record_event(chip, now, generation, "system", code, text, {"by": by})
        self.tell(INTENTS, chip.user_id)
        return generation

    def wish(self, chip_id: str, wanted: Wanted) -> None:
        """The wish that a press on the page would be, for a chip whose owner does not matter."""
        user_id = self.chips[chip_id].user_id
        if wanted is Wanted.DELETED:
            self.delete_chip(user_id, chip_id)
        elif wanted is Wanted.DISCONNECTED:
            self.disconnect_chip(user_id, chip_id)
        else:
            self.reconnect_chip(user_id, chip_id)

    def force_wish(self, chip: Chip, wanted: Wanted) -> None:
        """The wish as a row alone, without event and without asking whether it may be."""
        now = self.clock.now()
        self._wish(chip, now, wanted)
        chip.deleted_at = now if wanted is Wanted.DELETED else None

    def pin(self, user_id: str, *, pinned: bool = True) -> None:
        """See core/store/containers_admin.py. Raises NotFound for an unknown user."""
        self.up()
        if user_id not in self.users:
            raise NotFound(USER_GONE)
        if not pinned and user_id not in self.containers:
            return
        container = self.ensure_container(user_id) if pinned else self.containers[user_id]
        if container.pinned == pinned:
            return
        container.pinned = pinned
        self._next_generation(container)
        self.tell(INTENTS, user_id)

    def pause(self, user_id: str, *, paused: bool = True) -> bool:
        """See containers_admin.py of core/store; False when there is none or it is so already."""
        self.up()
        container = self.containers.get(user_id)
        if container is None or container.paused == paused:
            return False
        container.paused = paused
        self._next_generation(container)
        self.tell(INTENTS, user_id)
        return True

    def pause_fleet(self, *, paused: bool = True) -> bool:
        """An operator's word on everybody; False when it stands so already."""
        self.up()
        if self.fleet_paused is paused:
            return False
        self.fleet_paused = paused
        if not paused:
            self.fleet_resumed_at = self.clock.now()
        self.tell(INTENTS, "fleet")
        return True

    def restart(self, user_id: str) -> int | None:
        """See containers_admin.py of core/store. Raises Conflict while nothing is placed."""
        self.up()
        container = self.containers.get(user_id)
        if container is None or container.deleted_at is not None:
            return None
        if container.restart_generation > container.observed.restarted_generation:
            return container.restart_generation
        if container.observed.allocation_id is None:
            raise Conflict(NOTHING_TO_RESTART, code="container_not_placed")
        container.restart_generation = self._next_generation(container)
        container.restart_allocation = container.observed.allocation_id
        self.tell(INTENTS, user_id)
        return container.restart_generation

    def delete_container(self, user_id: str) -> bool:
        """See core/store/containers_admin.py; False when there is none or it is being removed already."""
        self.up()
        container, now = self.containers.get(user_id), self.clock.now()
        if container is None or container.deleted_at is not None:
            return False
        container.pinned, container.deleted_at = False, now
        self._next_generation(container)
        for chip in sorted(container.chips, key=lambda one: one.id):
            if chip.deleted_at is None:
                chip.wanted, chip.consent, chip.deleted_at = Wanted.DELETED, Consent.NONE, now
                chip.generation, chip.intent_at = container.generation, now
                chip.revision, chip.updated_at = chip.revision + 1, now
                self.record_event(chip, now, chip.generation, "system", "chip_deleted", "Chip excluído.", {})
        self.tell(INTENTS, user_id)
        return True

    def send_mail(self, user_id: str) -> None:
        """The user's container sent a webhook."""
        self.up()
        self.mail.setdefault(user_id, []).append(self.clock.now())
        self.tell(INBOX, user_id)

    def ensure_container(self, user_id: str) -> Container:
        """The user's container row: made when there is none, revived when it was being removed."""
        container = self.containers.get(user_id)
        if container is None:
            container = new_container(self.users[user_id], self.clock.now())
            # Leases of guards outlive a removed container: its successor's placements count on.
            self.containers[user_id] = container
        elif container.deleted_at is not None:
            container.deleted_at = None
            container.generation += 1
        container.snapshot = None
        return container

    def shown(self, chip: Chip) -> StoredChip:
        """The chip as the API reads it."""
        container, seen = self.containers[chip.user_id], chip.observed
        return StoredChip(
            id=chip.id,
            user_id=chip.user_id,
            alias=chip.alias,
            wanted=chip.wanted,
            generation=chip.generation,
            observed_generation=seen.observed_generation,
            phase=seen.phase,
            reason=seen.reason,
            status=seen.status,
            waha_status=seen.waha_status,
            since=seen.since,
            started_at=seen.tries.last_at,
            starts_at=seen.starts_at,
            phone_number=seen.phone_number,
            health_score=seen.health_score,
            unlinked=seen.unlinked_generation is not None,
            annotations={},
            created_at=chip.created_at,
            updated_at=chip.updated_at,
            connected_at=seen.connected_at,
            last_activity_at=seen.last_activity_at,
            container=StoredContainer(
                container.phase, container.reason, container.observed.port, container.observed.node_name
            ),
        )

    def _insert_chip(self, user_id: str, chip_id: str, alias: str) -> None:
        container, now = self.ensure_container(user_id), self.clock.now()
        generation = self._next_generation(container)
        if container.chips and container.chips[-1].created_at >= now:
            now = container.chips[-1].created_at + timedelta(
                microseconds=1
            )  # ages differ, as on a real clock
        chip = Chip(chip_id, user_id, alias, generation, now, now, now, new_chip_columns(now))
        self.chips[chip_id] = chip
        container.chips.append(chip)
        self.record_event(chip, now, generation, "system", "chip_created", "Chip criado.", {})
        self.tell(INTENTS, user_id)

    def _live(self, chip_id: str) -> Chip:
        chip = self.chips.get(chip_id)
        if chip is None or chip.deleted_at is not None:
            raise unknown_chip()
        return chip

    def _found(self, user_id: str, chip_id: str) -> Chip:
        chip = self.chips.get(chip_id)
        if chip is None or chip.user_id != user_id or chip.deleted_at is not None:
            raise unknown_chip()
        return chip

    def _wish(self, chip: Chip, now: datetime, wanted: Wanted, consent: Consent = Consent.NONE) -> None:
        chip.generation = self._next_generation(self.containers[chip.user_id])
        chip.wanted, chip.consent, chip.intent_at, chip.updated_at = wanted, consent, now, now
        chip.revision += 1

    def _next_generation(self, container: Container) -> int:
        container.generation = self.newest(container.user_id) + 1
        container.snapshot = None
        return container.generation
