"""Labels of chips, with the rules of core/store/labels.py."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from datetime import datetime, timedelta
from types import SimpleNamespace

import msgspec

from core.domain import labels as label_rules
from core.domain.egress_errors import EgressError
from core.domain.guard_wire import Upstream
from core.domain.label_plan import Held, Keep, ProviderStanding, SubUserStanding, label_plan
from core.domain.routes import ChipRoute, LabelWhy, NoRoute, Reading, trouble_now
from core.domain.usage_rules import left_bytes
from core.errors import StaleWrite
from core.provider_templates import templates
from core.store.interface import Lease, UserSnapshot
from core.store.labels import PROVIDER_CHANGED_IT
from core.store.upstreams import EXIT_KNOWN_S, upstream_of
from tests.memory_store.database import SYSTEM
from tests.memory_store.leases import Leases
from tests.memory_store.rows import ExitRow, LabelRow, ProviderRow, SubUserRow


class Labels(Leases):
    # --- what the API writes ---------------------------------------------------------------------------
    def add_provider(self, row: ProviderRow) -> None:
        self.providers[row.slug] = row

    def add_sub_user(self, row: SubUserRow) -> None:
        self.sub_users[row.id] = row

    def request_label(self, chip_id: str) -> None:
        row = self.labels[chip_id]
        row.requested_generation = row.generation + 1

    # --- what passes do --------------------------------------------------------------------------------
    async def assign_label(self, lease: Lease, chip_id: str, why: LabelWhy) -> ChipRoute | NoRoute:
        self.guard(lease)
        chip = self.chips.get(chip_id)
        if chip is None or chip.user_id != lease.key:
            raise StaleWrite(SYSTEM, f"chip {chip_id} is no chip of the lease's user")
        now, row = self.clock.now(), self.labels.get(chip_id)
        live = {(one.provider, one.label) for one in self.labels.values() if one is not row and one.is_live}
        plan = label_plan(_held(row, live), self._providers(now), self._sub_users(now, chip_id))
        if isinstance(plan, NoRoute):
            return plan
        if isinstance(plan, Keep):
            assert row is not None
            row.released_at, row.exit_since = None, now
            return self._route(row, now)
        template = templates().get(self.providers[plan.provider].template)
        if template is None:
            return NoRoute(EgressError.NO_UPSTREAM)
        for generation in itertools.count(plan.generation):
            try:
                label = label_rules.cut(label_rules.label(self.label_secret, chip_id, generation), template)
            except ValueError:
                return NoRoute(EgressError.NO_UPSTREAM)
            if (plan.provider, label) not in live:
                break
        asked = row.requested_generation if row is not None else 0
        given = LabelRow(
            chip_id, lease.key, plan.provider, plan.sub_user_id, generation, label, why, now, asked
        )
        self.labels[chip_id] = given
        return self._route(given, now)

    async def release_label(self, lease: Lease, chip_id: str) -> None:
        self.guard(lease)
        row = self.labels.get(chip_id)
        if row is not None and row.user_id == lease.key and row.is_live:
            row.released_at = self.clock.now()

    async def upstream(self, chip_id: str) -> Upstream | NoRoute:
        self.up()
        row = self.labels.get(chip_id)
        if row is None or not row.is_live:
            return NoRoute(EgressError.NO_UPSTREAM)
        why = self._unusable(row, self.clock.now())
        if why is not None:
            return NoRoute(why)
        provider, sub_user = self.providers[row.provider], self.sub_users[row.sub_user_id]
        columns = SimpleNamespace(
            label=row.label,
            template=provider.template,
            scheme=provider.scheme,
            host=provider.host,
            port=provider.port,
            country="br",
            minutes=60,
            login=sub_user.login,
            sealed_password=sub_user.password.encode(),
        )
        return upstream_of(columns, bytes.decode)

    async def record_reading(self, lease: Lease, chip_id: str, generation: int, reading: Reading) -> None:
        self.guard(lease)
        row, now = self.labels.get(chip_id), self.clock.now()
        if row is None or row.user_id != lease.key or row.generation != generation or not row.is_live:
            return
        row.checked_at = now
        if reading.exit_ip is None:
            row.failure, row.failures = reading.failure or EgressError.PROXY_UNREACHABLE, row.failures + 1
            row.failing_since = row.failing_since or now
            return
        if row.exit_ip != reading.exit_ip:
            row.exit_since = now
        row.exit_ip, row.exit_at = reading.exit_ip, now
        row.failure, row.failures, row.failing_since = None, 0, None
        self._note_exit(row, now)

    def with_routes(self, snapshot: UserSnapshot) -> UserSnapshot:
        """Routes hang on other chips and on the time, so they are made at each load."""
        if not any(chip.id in self.labels for chip in snapshot.chips):
            return snapshot
        chips = (msgspec.structs.replace(chip, route=self.route(chip.id)) for chip in snapshot.chips)
        return msgspec.structs.replace(snapshot, chips=tuple(chips))

    # --- inner -----------------------------------------------------------------------------------------
    def route(self, chip_id: str) -> ChipRoute | None:
        row = self.labels.get(chip_id)
        return None if row is None else self._route(row, self.clock.now())

    def _note_exit(self, row: LabelRow, now: datetime) -> None:
        lines = self.exits.setdefault(row.chip_id, [])
        before = lines[-1] if lines else None
        same = before is not None and (before.label_generation, before.provider) == (
            row.generation,
            row.provider,
        )
        if before is not None and same and before.exit_ip == row.exit_ip:
            before.seen_until = now
            return
        assert row.exit_ip is not None
        why = PROVIDER_CHANGED_IT if same else row.why.value
        lines.append(ExitRow(row.provider, row.label, row.generation, row.exit_ip, now, now, why))

    def _route(self, row: LabelRow, now: datetime) -> ChipRoute:
        return ChipRoute(
            provider=row.provider,
            sub_user_id=row.sub_user_id,
            generation=row.generation,
            label=row.label,
            assigned_at=row.assigned_at,
            released=not row.is_live,
            requested=row.requested_generation > row.generation,
            unusable=self._unusable(row, now) if row.is_live else None,
            exit_ip=row.exit_ip,
            exit_at=row.exit_at,
            checked_at=row.checked_at,
            failure=row.failure,
            failures=row.failures,
            others_work=row.failing_since is not None and self._others_work(row, row.failing_since),
            shares_exit=row.is_live and row.exit_ip is not None and self._shares_exit(row, now),
        )

    def _unusable(self, row: LabelRow, now: datetime) -> EgressError | None:
        provider, sub_user = self.providers.get(row.provider), self.sub_users.get(row.sub_user_id)
        if provider is None or not provider.enabled:
            return EgressError.NO_UPSTREAM
        if sub_user is None or not sub_user.enabled or sub_user.provider != row.provider:
            return EgressError.NO_UPSTREAM
        limit, used = self.users[row.user_id].plan.proxy_gb_limit, self.proxy_bytes.get(row.user_id, 0)
        if left_bytes(limit, used) == 0:
            return EgressError.QUOTA
        return _trouble(provider, now) or _trouble(sub_user, now)

    def _others_work(self, row: LabelRow, since: datetime) -> bool:
        return any(
            one is not row
            and one.is_live
            and one.provider == row.provider
            and one.exit_at is not None
            and one.exit_at >= since
            for one in self.labels.values()
        )

    def _shares_exit(self, row: LabelRow, now: datetime) -> bool:
        known = now - timedelta(seconds=EXIT_KNOWN_S)
        assert row.exit_since is not None
        mine = (row.exit_since, row.chip_id)
        return any(
            one is not row
            and one.is_live
            and one.exit_ip == row.exit_ip
            and one.exit_at is not None
            and one.exit_at > known
            and one.exit_since is not None
            and (one.exit_since, one.chip_id) < mine
            for one in self.labels.values()
        )

    def _providers(self, now: datetime) -> list[ProviderStanding]:
        return [
            ProviderStanding(one.slug, one.enabled, one.is_default, _trouble(one, now))
            for one in self.providers.values()
        ]

    def _sub_users(self, now: datetime, chip_id: str) -> list[SubUserStanding]:
        live: dict[str, int] = {}
        for row in self.labels.values():
            if row.is_live and row.chip_id != chip_id:
                live[row.sub_user_id] = live.get(row.sub_user_id, 0) + 1
        return [
            SubUserStanding(
                one.id, one.provider, one.enabled, live.get(one.id, 0), one.max_labels, _trouble(one, now)
            )
            for one in sorted(self.sub_users.values(), key=lambda one: one.id)
        ]


def _held(row: LabelRow | None, live: Collection[tuple[str, str]]) -> Held | None:
    if row is None:
        return None
    asked = row.requested_generation > row.generation
    taken = (row.provider, row.label) in live
    return Held(row.provider, row.sub_user_id, row.generation, not row.is_live, asked, taken)


def _trouble(row: ProviderRow | SubUserRow, now: datetime) -> EgressError | None:
    return trouble_now(row.trouble, row.trouble_at, now)
