"""What a sweep finds: users whose stored state and the listed world do not agree, and who is due for a look.

A user at rest is looked at by nobody until there is news. News may get lost, so now and then everything is
read in bulk and compared here. A finding only ever says *look again*: the pass reads the world anew.

Nothing is concluded from a list that could not be read: `Unknown` finds nobody. Pages of a list are separate
snapshots, so even a good list may lack something that exists; that costs one needless look, and no more.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

import msgspec

from core.domain.desired import Registered
from core.domain.endpoints import endpoint_of
from core.domain.facts import (
    AllocationFact,
    ClientStatus,
    Endpoint,
    Fact,
    Known,
    ListedAllocation,
    ListedJob,
    ServiceInstance,
    Unknown,
)
from core.domain.names import job_id, user_of_job, variable_path

T = TypeVar("T")

# A user with a fresh look does not come up again before this part of the period is over.
_LEAST_PART = 0.2


class UserSummary(msgspec.Struct, frozen=True):
    """One container as the store holds it, without its chips and secrets.

    Attributes:
        wanted: it should run: it has a chip that is no tombstone, or an operator pinned it.
        deleted: the container itself is a tombstone.
        generation, observed_generation: newest wish, and the newest that a pass has seen.
        registered: what was registered last; None when no job should exist.
        current_allocation: of the current placement. allocation_id: newest live one that a pass saw.
        endpoint: as stored; None while the rule of `endpoints.py` does not hold.
        at_rest: the last pass left nothing that would need another look without news.
        looked_s: seconds since a pass last wrote what it saw, by the store's clock; None before the first.
        namespace, storage_id: where WAHA keeps what belongs to the user.
        seat_release: of a seat that waits or moves; None without one.
    """

    user_id: str
    wanted: bool
    deleted: bool
    generation: int
    observed_generation: int
    phase: str
    reason: str | None
    since: datetime
    observed_at: datetime | None
    registered: Registered | None
    variables_hash: str | None
    current_allocation: str | None
    allocation_id: str | None
    endpoint: Endpoint | None
    empty_since: datetime | None
    at_rest: bool
    looked_s: float | None
    namespace: str
    storage_id: str
    seat_release: str | None = None


class Listing(msgspec.Struct, frozen=True):
    """Everything read in bulk for one sweep.

    Attributes:
        jobs, allocations, instances, variables: never Missing; Unknown when the list could not be read.
        users: every container there is, read behind those lists.
        variables: their paths, read behind the users; what stands in them is not read.
        read_s: seconds from the first list's request to the answer with the users.
    """

    jobs: Fact[tuple[ListedJob, ...]]
    allocations: Fact[tuple[ListedAllocation, ...]]
    instances: Fact[tuple[ServiceInstance, ...]]
    variables: Fact[tuple[str, ...]]
    users: tuple[UserSummary, ...]
    read_s: float

    @property
    def unread(self) -> tuple[str, ...]:
        """The lists that could not be read."""
        names = ("jobs", "allocations", "instances", "variables")
        return tuple(name for name in names if isinstance(getattr(self, name), Unknown))


class Why(StrEnum):
    """Why a user needs a look."""

    UNSEEN_WISH = "unseen_wish"  # a newer generation than any pass has seen
    OVERDUE = "overdue"  # somebody should have looked by now: the daemon that had it in mind may be gone
    JOB_MISSING = "job_missing"
    JOB_STOPPED = "job_stopped"
    JOB_EDITED = "job_edited"  # JobModifyIndex is not the one that we read back after our register
    JOB_LEFT = "job_left"  # there is a job and none is on record
    ALLOCATION = "allocation"  # what runs is not the current placement
    VARIABLES_MISSING = "variables_missing"  # they were written, the user is wanted, and they are gone
    ENDPOINT = "endpoint"  # the stored endpoint is not what the lists give


class Rhythm(msgspec.Struct, frozen=True):
    """How often whom. All durations are seconds.

    Attributes:
        look_s: every user at rest is looked at once in this time, for what only WAHA knows.
        overdue_s: a user on the way is looked at by somebody at least this often.
        kept_s: the same for one that only waits for the end of its empty grace.
    """

    look_s: float = 300
    overdue_s: float = 75
    kept_s: float = 300


class Findings(msgspec.Struct, frozen=True):
    """Who needs a look and why, and who is merely due for one, longest unseen first.

    `outdated`: those at rest whose job was made from other settings, or who hold a seat for those; they may be
    among `due` too. `without_variables`: those of `differing` whose next pass has to write their secrets again. No pass reads
    them: they are secrets, and one request more.
    """

    differing: Mapping[str, Why]
    due: tuple[str, ...]
    without_variables: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()


def compare(
    listing: Listing, rhythm: Rhythm, *, since_s: float, takeover: bool, release: str = ""
) -> Findings:
    """Who needs a look.

    Args:
        since_s: seconds since the sweep before; that much of the look period's work is due now.
        takeover: the first sweep of a new holder: whoever is on the way counts as overdue, for what the
            daemon before had in mind may be gone with it.
        release: of the sweeping daemon's own settings.
    """
    lists = _ByUser(listing)
    differing: dict[str, Why] = {}
    resting: list[UserSummary] = []
    without_variables: list[str] = []
    for user in listing.users:
        why = _why(user, lists, listing, rhythm, takeover=takeover)
        if _lacks_variables(user, lists, listing):
            without_variables.append(user.user_id)
            why = why or Why.VARIABLES_MISSING
        if why is not None:
            differing[user.user_id] = why
        elif user.at_rest:
            resting.append(user)
    outdated = tuple(user.user_id for user in resting if _is_outdated(user, release))
    return Findings(differing, _due(resting, rhythm, since_s), tuple(without_variables), outdated)


def by_phase(users: Iterable[UserSummary]) -> Mapping[tuple[str, str], int]:
    """How many users there are by (phase, reason); "" stands for no reason."""
    counted: dict[tuple[str, str], int] = defaultdict(int)
    for user in users:
        counted[user.phase, user.reason or ""] += 1
    return counted


class _ByUser:
    """The lists by user; None for one that could not be read."""

    def __init__(self, listing: Listing) -> None:
        jobs, allocations, instances = (
            _value(fact) for fact in (listing.jobs, listing.allocations, listing.instances)
        )
        self.jobs = None if jobs is None else {job.job_id: job for job in jobs}
        self.allocations: Mapping[str, list[AllocationFact]] | None = None
        if allocations is not None:
            found: dict[str, list[AllocationFact]] = defaultdict(list)
            for listed in allocations:
                user = user_of_job(listed.job_id)
                if user is not None:
                    found[user].append(listed.allocation)
            self.allocations = found
        self.instances: Mapping[str, list[ServiceInstance]] | None = None
        if instances is not None:
            seen: dict[str, list[ServiceInstance]] = defaultdict(list)
            for instance in instances:
                seen[instance.user_id].append(instance)
            self.instances = seen
        variables = _value(listing.variables)
        self.variables = None if variables is None else frozenset(variables)


def _value(fact: Fact[tuple[T, ...]]) -> tuple[T, ...] | None:
    return fact.value if isinstance(fact, Known) else None


def _why(
    user: UserSummary, lists: _ByUser, listing: Listing, rhythm: Rhythm, *, takeover: bool
) -> Why | None:
    if user.looked_s is None:
        return Why.UNSEEN_WISH
    if not user.at_rest:
        # Its next look is planned, so only that may have been lost; it sees whatever else there is.
        waits = user.empty_since is not None and not user.wanted
        limit_s = rhythm.kept_s if waits else rhythm.overdue_s
        return Why.OVERDUE if takeover or user.looked_s >= limit_s else None
    if user.generation > user.observed_generation:
        return Why.UNSEEN_WISH
    if user.looked_s <= listing.read_s:
        return None  # a pass has seen a newer world than these lists
    return _job(user, lists) or _allocation(user, lists) or _endpoint(user, lists)


def _is_outdated(user: UserSummary, release: str) -> bool:
    if user.registered is None or not user.wanted:
        return False
    if user.seat_release is not None:
        return user.seat_release != release
    return user.registered.release != release


def _job(user: UserSummary, lists: _ByUser) -> Why | None:
    if lists.jobs is None:
        return None
    job = lists.jobs.get(job_id(user.user_id))
    if user.registered is None:
        return None if job is None else Why.JOB_LEFT
    if job is None:
        return Why.JOB_MISSING
    if job.stopped:
        return Why.JOB_STOPPED if user.wanted else None
    return None if job.modify_index == user.registered.modify_index else Why.JOB_EDITED


def _lacks_variables(user: UserSummary, lists: _ByUser, listing: Listing) -> bool:
    """Whether its secrets are gone: without them no task starts, so a user on the way has to be found too."""
    if lists.variables is None or user.variables_hash is None or not user.wanted:
        return False
    if user.looked_s is not None and user.looked_s <= listing.read_s:
        return False
    return variable_path(user.user_id) not in lists.variables


def _allocation(user: UserSummary, lists: _ByUser) -> Why | None:
    if lists.allocations is None:
        return None
    alive = {
        allocation.id
        for allocation in lists.allocations.get(user.user_id, ())
        if allocation.desired == "run" and allocation.client in (ClientStatus.RUNNING, ClientStatus.PENDING)
    }
    expected = {user.current_allocation} if user.current_allocation and user.registered else set()
    return None if alive == expected else Why.ALLOCATION


def _endpoint(user: UserSummary, lists: _ByUser) -> Why | None:
    if lists.allocations is None or lists.instances is None:
        return None
    found = endpoint_of(lists.allocations.get(user.user_id, ()), lists.instances.get(user.user_id, ()))
    return None if found == user.endpoint else Why.ENDPOINT


def _due(resting: list[UserSummary], rhythm: Rhythm, since_s: float) -> tuple[str, ...]:
    """Enough of those at rest, longest unseen first, that all have their turn once a period.

    A fixed share each time, so that users who came to rest together do not stay together, and whoever was
    not looked at for a whole period.
    """
    share = math.floor(len(resting) * min(1.0, since_s / rhythm.look_s))
    by_age = sorted(resting, key=lambda user: (-(user.looked_s or 0.0), user.user_id))
    return tuple(
        user.user_id
        for place, user in enumerate(by_age)
        if (user.looked_s or 0.0) >= (rhythm.look_s * _LEAST_PART if place < share else rhythm.look_s)
    )
