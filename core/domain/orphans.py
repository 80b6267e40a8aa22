"""What of ours outside no row explains: when it counts, and how one of them goes step by step.

Something is an **orphan** once it was seen in complete listings for longer than the grace and no row
explained it. It then is a **tombstone** that waits for an operator's yes (or, if the settings say so, has it
from the start). A listing that failed says nothing: what it would have shown is neither found nor gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, TypeAlias

import msgspec

from core.domain.belongings import (
    Found,
    Key,
    Kind,
    Listings,
    Owners,
    is_complete,
    is_explained,
    job_ids,
    seen,
)


class State(StrEnum):
    """Where an orphan is on its way.

    `seen` -> `waiting` (for an operator) -> `approved` -> `removing` -> `removed`, with `failed` between two
    tries of a removal; `kept` when an operator wants it to stay.
    """

    SEEN = "seen"
    WAITING = "waiting"
    APPROVED = "approved"
    KEPT = "kept"
    REMOVING = "removing"
    FAILED = "failed"
    REMOVED = "removed"


GOING: Final = (State.APPROVED, State.REMOVING, State.FAILED)
UNDECIDED: Final = (State.SEEN, State.WAITING)


class Orphan(msgspec.Struct, frozen=True):
    """A stored row.

    Attributes:
        first_seen, last_seen: by the store's clock. decided_by: who approved or kept it.
        attempts: tries in a row that failed. next_try_at: None = now.
        note: why it waits, or what the last try said.
    """

    id: int
    found: Found
    first_seen: datetime
    last_seen: datetime
    state: State = State.SEEN
    decided_by: str | None = None
    attempts: int = 0
    next_try_at: datetime | None = None
    note: str | None = None


class Rules(msgspec.Struct, frozen=True):
    """How careful to be. Seconds.

    Attributes:
        grace_s: how long something must go unexplained before anybody is asked about it.
        remove: say yes without an operator.
        forget_s: what no listing shows for so long is gone by itself. Longer than a few rounds: the pages
            of a list are snapshots of their own, and one may miss what is there.
        held_back_share, held_back_least: more orphans of one kind than this share of all that were listed
            (and than this number) are never approved by a setting. They mean a wrong or restored store.
    """

    grace_s: float = 3600
    remove: bool = False
    forget_s: float = 1800
    held_back_share: float = 0.2
    held_back_least: int = 5


class Saw(msgspec.Struct, frozen=True, tag=True):
    """Keep it, as new or as still there."""

    found: Found


class Moved(msgspec.Struct, frozen=True, tag=True):
    """From one state to the next, if it still is in the first."""

    orphan_id: int
    before: State
    after: State
    decided_by: str | None = None


class Forgot(msgspec.Struct, frozen=True, tag=True):
    """Nothing to be asked or shown any more: it has an owner (again), or went by itself."""

    orphan_id: int
    before: State
    why: str


Change: TypeAlias = Saw | Moved | Forgot
BY_SETTING: Final = "WAHAFLEET_JANITOR=remove"


class Judgement(msgspec.Struct, frozen=True):
    """What becomes of the rows. `held_back`: how many of a kind a setting would have approved and may not."""

    changes: tuple[Change, ...]
    held_back: Mapping[Kind, int]


def judge(
    rows: Iterable[Orphan], listings: Listings, owners: Owners, now: datetime, rules: Rules
) -> Judgement:
    """What one round makes of the stored rows. `now` is the store's clock, as the rows' times are.

    The listings must have been read before the owners: whatever is listed had its row by then.
    """
    stored = {row.found.key: row for row in rows}
    there = seen(listings)
    jobs = job_ids(listings)
    loose = {
        key: found
        for key, found in there.items()
        if is_complete(key, listings) and not is_explained(found, owners, jobs)
    }
    held_back = _held_back(there, loose, rules) if rules.remove else {}
    changes: list[Change] = []
    for key in sorted(loose):
        row = stored.get(key)
        changes.append(Saw(loose[key]))
        if row is None or row.state not in UNDECIDED:
            continue
        if now - row.first_seen < timedelta(seconds=rules.grace_s):
            continue
        after = State.WAITING
        if rules.remove and key[0] not in held_back and not loose[key].alive:
            after = State.APPROVED
        if after is not row.state:
            by = BY_SETTING if after is State.APPROVED else None
            changes.append(Moved(row.id, row.state, after, by))
    for key, row in sorted(stored.items()):
        if key in loose or row.state is State.REMOVED or not is_complete(key, listings):
            continue
        if is_explained(there.get(key, row.found), owners, jobs):
            changes.append(Forgot(row.id, row.state, "it has an owner"))
        elif key not in there and row.state not in GOING and _long_unseen(row, now, rules):
            # One whose removal is under way is looked at by itself, and ends as removed.
            changes.append(Forgot(row.id, row.state, "it went by itself"))
    return Judgement(tuple(changes), held_back)


def _long_unseen(row: Orphan, now: datetime, rules: Rules) -> bool:
    return now - row.last_seen >= timedelta(seconds=rules.forget_s)


def _held_back(there: Mapping[Key, Found], loose: Mapping[Key, Found], rules: Rules) -> dict[Kind, int]:
    counts, listed = Counter([key[0] for key in loose]), Counter([key[0] for key in there])
    return {
        kind: count
        for kind, count in counts.items()
        if count > max(rules.held_back_least, rules.held_back_share * listed[kind])
    }
