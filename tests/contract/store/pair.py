"""Two stores side by side, and what is different between them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import strategies as st

from core.domain.actions import ChipStatus
from core.domain.actor import COMMAND_LINE
from core.domain.desired import Breaker, Memory, Rhythm, Tries
from core.domain.evidence import Evidence, JobSeen, SessionSeen
from core.store import chips_admin, containers_admin, intents
from core.store.interface import Lease
from tests.contract.store.harness import PostgresHarness


def allocation(user: int, number: int) -> str:
    return str(uuid.UUID(int=0x1000 + 16 * user + number))


class Api:
    """Wishes on PostgreSQL, as the API accepts them."""

    def __init__(self, harness: PostgresHarness) -> None:
        self._engine, self._sealer = harness.engine, harness.sealer

    async def create_chip(self, user_id: str, chip_id: str, alias: str) -> None:
        await intents.create_chip(
            self._engine,
            self._sealer,
            "main",
            user_id=user_id,
            chip_id=chip_id,
            alias=alias,
            actor=COMMAND_LINE,
        )

    async def delete_chip(self, user_id: str, chip_id: str) -> None:
        await intents.delete_chip(self._engine, user_id, chip_id, actor=COMMAND_LINE)

    async def disconnect_chip(self, user_id: str, chip_id: str) -> None:
        await intents.disconnect_chip(self._engine, user_id, chip_id, actor=COMMAND_LINE)

    async def reconnect_chip(self, user_id: str, chip_id: str, *, fresh: bool = False) -> None:
        await intents.reconnect_chip(
            self._engine,
            self._sealer,
            "main",
            user_id=user_id,
            chip_id=chip_id,
            fresh=fresh,
            actor=COMMAND_LINE,
        )

    async def ban_chip(self, chip_id: str, *, banned: bool = True) -> bool:
        return await chips_admin.ban_chip(
            self._engine, chip_id, banned=banned, by="operator", actor=COMMAND_LINE
        )

    async def release_chip(self, chip_id: str) -> bool:
        return await chips_admin.release_chip(self._engine, chip_id, by="operator", actor=COMMAND_LINE)

    async def pin(self, user_id: str, *, pinned: bool) -> None:
        await containers_admin.pin_container(
            self._engine, self._sealer, "main", user_id, pinned=pinned, actor=COMMAND_LINE
        )

    async def pause(self, user_id: str, *, paused: bool) -> bool:
        return await containers_admin.pause_container(
            self._engine, user_id, paused=paused, actor=COMMAND_LINE
        )

    async def restart(self, user_id: str) -> int | None:
        return await containers_admin.restart_container(self._engine, user_id, actor=COMMAND_LINE)

    async def delete_container(self, user_id: str) -> bool:
        return await containers_admin.delete_container(self._engine, user_id, actor=COMMAND_LINE) is not None


class Pair(msgspec.Struct, frozen=True):
    """One lease in both stores."""

    real: Lease
    memory: Lease


def plain(value: Any) -> Any:
    """Without times, which two clocks told."""
    if isinstance(value, datetime):
        return "a time"
    if isinstance(value, msgspec.Struct):
        left_out = {"sent_at", "secrets", "namespace", "email"}
        return {n: plain(getattr(value, n)) for n in value.__struct_fields__ if n not in left_out}
    if isinstance(value, float):
        return "a duration"
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, str) else value


def different(one: Any, other: Any) -> Any:
    """The first place where two answers differ; None when nowhere."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        found = ((key, different(one[key], other[key])) for key in one)
        return next(((key, what) for key, what in found if what is not None), None)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = ((n, different(*pair)) for n, pair in enumerate(zip(one, other, strict=True)))
        return next(((n, what) for n, what in pairs if what is not None), None)
    return None if one == other else (one, other)


ports = st.integers(3100, 3102)


numbers = st.integers(1, 4)


phases = st.sampled_from(["placing", "booting", "ready", "failing", "moving", "absent"])


reasons = st.sampled_from([None, "no_port", "waha_not_ready", "dependency_nomad"])


chip_looks = st.builds(
    ChipStatus,
    phase=st.sampled_from(
        [
            *("queued", "starting", "qr", "connected", "reconnecting", "failed", "disconnected"),
            *("unlinked", "quarantined", "banned"),
        ]
    ),
    status=st.sampled_from(["WAITING_QR", "CONNECTED", "CONNECTING", "DISCONNECTED"]),
    reason=st.sampled_from([None, "unlinked", "waha_not_ready"]),
    waha_status=st.sampled_from([None, "WORKING", "SCAN_QR_CODE", "STARTING"]),
    phone_number=st.sampled_from([None, "+5511988887777"]),
    push_name=st.sampled_from([None, "Ana"]),
    connected_now=st.booleans(),
    unlinked_generation=st.sampled_from([None, 2]),
    activity_at=st.sampled_from([None, datetime(2026, 1, 1, tzinfo=UTC)]),
    memory=st.builds(
        Memory,
        st.sampled_from(
            [
                Breaker(),
                Breaker(starts=(datetime(2026, 1, 1, tzinfo=UTC),), opened_generation=1),
                Breaker(quarantined_generation=1),
                Breaker(quarantined_generation=9),
            ]
        ),
        st.builds(Rhythm, st.integers(0, 2)),
    ),
    tries=st.builds(Tries, st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)),
)


evidence_seen = st.none() | st.builds(
    Evidence,
    away=st.sampled_from([{}, {"nomad": "dependency_nomad"}, {"waha": "dependency_waha"}]),
    job=st.sampled_from([None, JobSeen(7, "running"), JobSeen(8, "running", edited=True)]),
    sessions=st.sampled_from([{}, {"c": SessionSeen("WORKING", True)}, {"c": SessionSeen("FAILED", True)}]),
    databases=st.sampled_from([None, 2]),
    answers=st.booleans(),
)
