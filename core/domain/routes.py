"""What a chip goes out through, and when that changes. Pure.

A label is for as long as possible: it changes on request, when its exit turned out to be another live chip's, when it
alone keeps failing, and when its provider or sub-user is no more. Never on an ordinary reconnect.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from core.domain.backoff import delay
from core.domain.egress_errors import OF_UPSTREAM, EgressError

# A second label is worth a try at once; with a provider that has fewer exits than chips, no third one would help.
SHARED_EVERY: Final = timedelta(hours=1)
FAILURES: Final = 3
FAILING_FOR: Final = timedelta(minutes=10)
READ_EVERY: Final = timedelta(hours=1)
TROUBLE_FOR: Final = timedelta(minutes=10)
_RETRY_BASE_S: Final = 15.0
_RETRY_CAP_S: Final = 900.0

OF_PROVIDER: Final = frozenset({EgressError.TRAFFIC_EXHAUSTED})
OF_SUB_USER: Final = frozenset({EgressError.PROXY_AUTH, EgressError.THREADS_EXHAUSTED})
OF_LABEL: Final = OF_UPSTREAM - OF_PROVIDER - OF_SUB_USER


class LabelWhy(StrEnum):
    """Why a chip got the label that it has. MOVED: its provider or sub-user is gone or disabled."""

    FIRST = "first"
    REQUESTED = "requested"
    SHARED_EXIT = "shared_exit"
    FAILING = "failing"
    MOVED = "moved"


class ChipRoute(msgspec.Struct, frozen=True):
    """A chip's label at its provider, with what is known of its exit.

    Attributes:
        provider: its slug.
        label: as the provider takes it.
        released: its chip is disconnected; the same label is taken up again.
        requested: somebody asked for another label since.
        unusable: why it carries nothing now: `no_upstream` when its provider or sub-user is disabled or gone, `quota`
            when the plan's traffic of the month is used up, else the trouble that provider or sub-user are in.
        exit_ip, exit_at: of the newest reading that succeeded.
        checked_at, failure: of the newest reading; failures: of this label in a row.
        others_work: another chip's reading through the same provider succeeded since this label began to fail.
        shares_exit: another live chip has the same exit and had it first.
    """

    provider: str
    sub_user_id: str
    generation: int
    label: str
    assigned_at: datetime
    released: bool = False
    requested: bool = False
    unusable: EgressError | None = None
    exit_ip: str | None = None
    exit_at: datetime | None = None
    checked_at: datetime | None = None
    failure: EgressError | None = None
    failures: int = 0
    others_work: bool = False
    shares_exit: bool = False


class NoRoute(msgspec.Struct, frozen=True):
    """There is nothing to go out through."""

    why: EgressError


class Reading(msgspec.Struct, frozen=True):
    """One look at the exit through a label: its address, or why there was none to be had."""

    exit_ip: str | None
    failure: EgressError | None


def rotation(route: ChipRoute, now: datetime) -> LabelWhy | None:
    """Why the chip needs another label; None = it keeps the one that it has. A released label never changes."""
    if route.released:
        return None
    if route.unusable is EgressError.NO_UPSTREAM:
        return LabelWhy.MOVED
    if route.requested:
        return LabelWhy.REQUESTED
    age = now - route.assigned_at
    if route.shares_exit and (route.generation == 1 or age >= SHARED_EVERY):
        return LabelWhy.SHARED_EXIT
    alone = route.failure in OF_LABEL and route.failures >= FAILURES and route.others_work
    if alone and route.unusable is None and age >= FAILING_FOR:
        return LabelWhy.FAILING
    return None


def reading_due(route: ChipRoute, now: datetime) -> bool:
    """Whether to look at the exit now: before a first start of this label, then hourly; after failures with backoff.

    Nothing is looked at through a label that carries nothing.
    """
    if route.released or route.unusable is not None:
        return False
    if route.checked_at is None:
        return True
    wait = READ_EVERY
    if route.failure is not None:
        wait = timedelta(seconds=delay(max(route.failures, 1), _RETRY_BASE_S, _RETRY_CAP_S))
    return now - route.checked_at >= wait


def trouble_now(trouble: EgressError | None, since: datetime | None, now: datetime) -> EgressError | None:
    """The trouble of a provider or sub-user that was last told at `since`, while it counts.

    It is forgotten by itself, so that somebody tries again: whoever waits for it to end would tell of nothing.
    """
    if trouble is None or since is None or now - since >= TROUBLE_FOR:
        return None
    return trouble
