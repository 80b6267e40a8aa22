"""Rollouts in memory; see core/store/rollouts.py for the order of things."""

from __future__ import annotations

from core.domain.rollout import Candidate, Control, Mover, Plan, RolloutState, Settled, View
from core.domain.seat import SeatState, SeatWhy
from core.store.interface import Lease
from core.store.notify import INTENTS
from core.store.rollouts import SETTLED_READ
from tests.memory_store.leases import Leases
from tests.memory_store.rows import ReleaseRow, SeatRow


class Rollouts(Leases):
    """The newest release stands last in `releases`."""

    async def announce_release(self, release: str) -> None:
        self.up()
        if self.releases and self.releases[-1].release == release:
            return
        now = self.clock.now()
        self.releases = [row for row in self.releases if row.release != release]
        self.releases.append(ReleaseRow(release, now, now, now))
        for row in self.containers.values():
            row.snapshot = None

    async def newest_release(self) -> str | None:
        self.up()
        return self.releases[-1].release if self.releases else None

    async def ask_seat(self, lease: Lease, release: str, restart_hash: str) -> None:
        self.guard(lease)
        if not self.releases or self.releases[-1].release != release or lease.key not in self.containers:
            return
        before = self.seats.get(lease.key)
        seat = SeatRow(lease.key, release, restart_hash, self.clock.now())
        if before is not None:
            unfinished = before.state in (SeatState.MOVING, SeatState.FAILED)
            seat.broken = (before.restart_hash != restart_hash and unfinished) or (
                before.broken and before.state is not SeatState.OK
            )
            seat.connected = list(before.connected) if seat.broken else []
        self._put(seat)

    async def leave_seat(self, lease: Lease) -> None:
        self.guard(lease)
        seat = self.seats.get(lease.key)
        if seat is not None and seat.seat.is_open:
            self.forget_seat(lease.key)

    async def settle_seat(self, lease: Lease, *, ok: bool, why: SeatWhy | None = None) -> None:
        self.guard(lease)
        self._settle(lease.key, SeatState.OK if ok else SeatState.FAILED, None if ok else why)

    async def rollout_view(self) -> View | None:
        self.up()
        if not self.releases:
            return None
        row, now = self.releases[-1], self.clock.now()
        seats = [self.seats[user_id] for user_id in sorted(self.seats)]
        ended = [
            seat
            for seat in seats
            if seat.release == row.release and seat.settled_at and seat.settled_at >= row.counted_from
        ]
        ended.sort(key=lambda seat: seat.settled_at or now, reverse=True)
        return View(
            control=row.control,
            waiting=tuple(
                self._candidate(seat)
                for seat in seats
                if seat.state is SeatState.WAITING
                and seat.release == row.release
                and self.containers[seat.user_id].deleted_at is None
            ),
            moving=tuple(
                Mover(
                    seat.user_id,
                    seat.release,
                    (
                        now
                        - max(
                            seat.admitted_at or now,
                            self.fleet_resumed_at or now.min.replace(tzinfo=now.tzinfo),
                        )
                    ).total_seconds(),
                    bool(seat.connected),
                )
                for seat in seats
                if seat.state is SeatState.MOVING
            ),
            settled=tuple(
                Settled(seat.state is SeatState.OK, bool(seat.connected), _took_s(seat))
                for seat in ended[:SETTLED_READ]
            ),
        )

    async def apply_rollout(self, fleet: Lease, before: Control, plan: Plan) -> tuple[str, ...]:
        self.guard(fleet)
        row = self.releases[-1] if self.releases else None
        if row is None or (row.release, row.state) != (before.release, before.state):
            return ()
        now = self.clock.now()
        for user_id in plan.late:
            self._settle(user_id, SeatState.FAILED, SeatWhy.LATE)
        if plan.state is not before.state:
            row.state, row.why, row.decided_by = plan.state, plan.why and plan.why.value, None
            row.state_since = now
            if before.state is RolloutState.DONE:
                row.counted_from = now
        admitted = []
        for user_id in plan.admit:
            seat = self.seats.get(user_id)
            if seat is None or seat.state is not SeatState.WAITING or seat.release != before.release:
                continue
            container = self.containers[user_id]
            connected = [
                chip.id
                for chip in container.chips
                if chip.phase == "connected" and chip.deleted_at is None and chip.id not in seat.connected
            ]
            seat.state, seat.admitted_at = SeatState.MOVING, now
            seat.connected = [*seat.connected, *connected]
            seat.moved_from = container.observed.allocation_id
            self._put(seat)
            admitted.append(user_id)
        for user_id in admitted:
            self.tell(INTENTS, user_id)
        return tuple(admitted)

    def set_paused(self, *, paused: bool, by: str) -> Control | None:
        """An operator's word; None when it stands so already, or none was announced."""
        row = self.releases[-1] if self.releases else None
        if row is None or (row.state is RolloutState.PAUSED) is paused:
            return None
        now = self.clock.now()
        row.state = RolloutState.PAUSED if paused else RolloutState.RUNNING
        row.why, row.decided_by, row.state_since = "operator" if paused else None, by, now
        if not paused:
            row.counted_from = now
        return row.control

    def forget_seat(self, user_id: str) -> None:
        if self.seats.pop(user_id, None) is not None and user_id in self.containers:
            self.containers[user_id].snapshot = None

    def _put(self, seat: SeatRow) -> None:
        self.seats[seat.user_id] = seat
        self.containers[seat.user_id].snapshot = None

    def _settle(self, user_id: str, state: SeatState, why: SeatWhy | None) -> None:
        seat = self.seats.get(user_id)
        if seat is not None and seat.state is SeatState.MOVING:
            seat.state, seat.why, seat.settled_at = state, why, self.clock.now()
            self._put(seat)

    def _candidate(self, seat: SeatRow) -> Candidate:
        chips = [chip for chip in self.containers[seat.user_id].chips if chip.deleted_at is None]
        signs = [chip.observed.last_activity_at for chip in chips if chip.observed.last_activity_at]
        return Candidate(
            seat.user_id,
            seat.broken,
            sum(chip.phase == "connected" for chip in chips),
            len(chips),
            max(signs, default=None),
        )


def _took_s(seat: SeatRow) -> float:
    assert seat.settled_at is not None
    assert seat.admitted_at is not None
    return (seat.settled_at - seat.admitted_at).total_seconds()
