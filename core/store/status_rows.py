"""Between stored rows and the columns that the rules of a status write know."""

from __future__ import annotations

from typing import Any

from core.domain.desired import Tries
from core.domain.facts import Endpoint
from core.domain.observed import ChipColumns, ContainerColumns
from core.store.snapshots import memory_of


def container_columns(row: Any) -> ContainerColumns:
    endpoint = None
    if row.endpoint_address is not None:
        endpoint = Endpoint(row.endpoint_address, row.endpoint_port, row.endpoint_allocation_id)
    return ContainerColumns(
        phase=row.phase,
        reason=row.reason,
        since=row.status_since,
        allocation_id=row.allocation_id,
        node_name=row.node_name,
        address=row.address,
        port=row.port,
        endpoint=endpoint,
        empty_since=row.empty_since,
        isolated_at=row.isolated_at,
        key_renewed_for=row.key_renewed_for,
        restarted_generation=row.restarted_generation,
        restart_mark=row.restart_mark,
        observed_generation=row.observed_generation,
        observed_at=row.observed_at,
        looked_at=row.looked_at,
        at_rest=row.at_rest,
    )


def container_values(columns: ContainerColumns) -> dict[str, Any]:
    endpoint = columns.endpoint
    return {
        "phase": columns.phase,
        "reason": columns.reason,
        "status_since": columns.since,
        "allocation_id": columns.allocation_id,
        "node_name": columns.node_name,
        "address": columns.address,
        "port": columns.port,
        "endpoint_address": endpoint.address if endpoint else None,
        "endpoint_port": endpoint.port if endpoint else None,
        "endpoint_allocation_id": endpoint.allocation_id if endpoint else None,
        "empty_since": columns.empty_since,
        "isolated_at": columns.isolated_at,
        "key_renewed_for": columns.key_renewed_for,
        "restarted_generation": columns.restarted_generation,
        "restart_mark": columns.restart_mark,
        "observed_generation": columns.observed_generation,
        "observed_at": columns.observed_at,
        "looked_at": columns.looked_at,
        "at_rest": columns.at_rest,
    }


def chip_columns(row: Any) -> ChipColumns:
    return ChipColumns(
        phase=row.chip_phase,
        reason=row.chip_reason,
        status=row.chip_status,
        since=row.chip_status_since,
        waha_status=row.chip_waha_status,
        phone_number=row.chip_phone_number,
        push_name=row.chip_push_name,
        connected_at=row.chip_connected_at,
        last_activity_at=row.chip_last_activity_at,
        unlinked_generation=row.chip_unlinked_generation,
        tries=Tries(
            row.chip_tries_generation,
            row.chip_tries_failures,
            row.chip_tries_qr_rounds,
            row.chip_tries_last_at,
        ),
        health_score=row.chip_health_score,
        observed_generation=row.chip_observed_generation,
        memory=memory_of(row.chip_memory),
        waiting_since=row.chip_waiting_since,
        starts_at=row.chip_starts_at,
    )


def chip_values(chip_id: str, after: ChipColumns, *, bump: bool) -> dict[str, Any]:
    """As JSON can hold them. `bump`: its owner sees something new."""
    return {
        "chip_id": chip_id,
        "bump": int(bump),
        "phase": after.phase,
        "reason": after.reason,
        "status": after.status,
        "status_since": after.since,
        "waha_status": after.waha_status,
        "phone_number": after.phone_number,
        "push_name": after.push_name,
        "connected_at": after.connected_at,
        "last_activity_at": after.last_activity_at,
        "unlinked_generation": after.unlinked_generation,
        "tries_generation": after.tries.generation,
        "tries_failures": after.tries.failures,
        "tries_qr_rounds": after.tries.qr_rounds,
        "tries_last_at": after.tries.last_at,
        "health_score": after.health_score,
        "observed_generation": after.observed_generation,
        "memory": after.memory,
        "waiting_since": after.waiting_since,
        "starts_at": after.starts_at,
    }
