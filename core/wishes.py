"""From stored rows to what is wanted, given the fingerprints of the job as it should be."""

from __future__ import annotations

import msgspec

from core.domain.desired import Desired, DesiredChip, DesiredContainer, SpecHashes
from core.store.interface import ChipRow, UserSnapshot


class WantedPrints(msgspec.Struct, frozen=True):
    """Fingerprints of a job and of the secrets beside it."""

    hashes: SpecHashes
    variables_hash: str


NO_PRINTS = WantedPrints(SpecHashes(spec="", restart=""), "")


def desired_of(
    snapshot: UserSnapshot, wanted: WantedPrints | None, *, release: str, superseded: bool
) -> Desired:
    """What the user wants. `wanted`: None where no job can be made; `release`, `superseded`: see `DesiredContainer`."""
    row = snapshot.container
    prints = wanted or NO_PRINTS
    return Desired(
        container=DesiredContainer(
            user_id=row.user_id,
            generation=row.generation,
            wanted_hashes=prints.hashes,
            wanted_variables_hash=prints.variables_hash,
            renderable=wanted is not None,
            paused=row.paused,
            isolated=row.isolated_at is not None,
            key_renewed_for=row.key_renewed_for,
            restart_generation=row.restart_generation,
            restart_allocation=row.restart_allocation,
            restarted_generation=row.restarted_generation,
            restart_mark=row.restart_mark,
            registered=row.registered,
            variables_hash=row.variables_hash,
            pinned=row.pinned,
            empty_since=row.empty_since,
            deleted=row.deleted,
            phase=row.phase,
            reason=row.reason,
            since=row.since,
            current_allocation=row.current_allocation,
            release=release,
            superseded=superseded,
            seat=snapshot.seat,
        ),
        chips=tuple(_chip(chip) for chip in snapshot.chips),
        max_chips=row.max_chips,
        fleet_paused=snapshot.fleet_paused,
    )


def _chip(row: ChipRow) -> DesiredChip:
    return DesiredChip(
        id=row.id,
        wanted=row.wanted,
        generation=row.generation,
        intent_at=row.intent_at,
        created_at=row.created_at,
        connected_at=row.connected_at,
        unlinked_generation=row.unlinked_generation,
        tries=row.tries,
        phase=row.phase,
        reason=row.reason,
        status=row.status,
        since=row.since,
        consent=row.consent,
        banned=row.banned,
        released_generation=row.released_generation,
        memory=row.memory,
        last_activity_at=row.last_activity_at,
        route=row.route,
    )
