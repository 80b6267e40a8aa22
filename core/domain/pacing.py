"""Whose session may start now: token buckets for all daemons together, and one line of those who wait.

A start takes one token of the fleet's bucket, of its host's and of its proxy provider's, or none at all. Who
gets none stands in line: plan first, then how long it has been without its connection, then chip id. Nobody
takes a token that somebody ahead could take at that moment; who is held up by another bucket of their own
(a busy host) holds up nobody else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final, TypeAlias

import msgspec

from core.domain.states import ContainerPhase

FLEET: Final = "fleet"
_HOST: Final = "host:"
_PROVIDER: Final = "provider:"
# Who waits asks again after this at the latest: the line may get shorter than it was.
LOOK_AGAIN_S: Final = 30.0
# Nobody asks again sooner: a pass takes about as long.
_SOONEST_S: Final = 0.2
# Who has not asked again by then counts no more: its daemon died, or its wish changed.
_LATE_S: Final = 30.0
# Sums of fractions of a token are off by less.
_DUST: Final = 1e-6

# Host and proxy provider that share buckets; None = not known yet, or no provider.
Group: TypeAlias = tuple[str | None, str | None]
# By chip: how many of each group stand ahead of it.
Counts: TypeAlias = Mapping[str, Mapping[Group, int]]
# Containers in one of these are about to answer, and their chips about to ask.
COMING_FROM: Final = (ContainerPhase.PLACING, ContainerPhase.BOOTING, ContainerPhase.READY)


class Limit(msgspec.Struct, frozen=True):
    """One kind of bucket: tokens a second, and how many a full one holds."""

    per_s: float
    burst: float


class Pace(msgspec.Struct, frozen=True):
    """How many sessions may start: in the whole fleet, on each host, through each proxy provider."""

    fleet: Limit = Limit(5.0, 20.0)
    host: Limit = Limit(1.0, 10.0)
    provider: Limit = Limit(2.0, 20.0)

    def limit(self, key: str) -> Limit:
        if key.startswith(_HOST):
            return self.host
        return self.provider if key.startswith(_PROVIDER) else self.fleet


class Bucket(msgspec.Struct, frozen=True):
    """What was left in a bucket at `refilled_at`."""

    tokens: float
    refilled_at: datetime


class Ask(msgspec.Struct, frozen=True):
    """A chip that would start now.

    Attributes:
        host: name of the host that its container runs on.
        provider: of its proxy; None while it leaves through the host's own address.
        start_order: of its plan; lower goes first.
        waiting_since: since when it is without its connection; None = since now.
    """

    chip_id: str
    host: str
    provider: str | None
    start_order: int
    waiting_since: datetime | None

    @property
    def group(self) -> Group:
        return self.host, self.provider


class Waits(msgspec.Struct, frozen=True):
    """No token yet.

    Attributes:
        position: in line, from 1.
        wait_s: seconds until its start, as far as can be told now.
    """

    position: int
    wait_s: float

    @property
    def look_again_s(self) -> float:
        return min(max(self.wait_s, _SOONEST_S), LOOK_AGAIN_S)

    def counts_until(self, now: datetime) -> datetime:
        """When its place in line is given up if nobody asks for it again."""
        return now + timedelta(seconds=self.look_again_s + _LATE_S)


class Admission(msgspec.Struct, frozen=True):
    """Who may start, in the order in which they were asked about, and what is left.

    Attributes:
        buckets: to be written back: all that were drawn on.
        tokens: of all buckets that are not full, after this.
        passed: for each who waits, how many of the same pass stand ahead of it, by group.
    """

    granted: tuple[str, ...]
    buckets: Mapping[str, Bucket]
    tokens: Mapping[str, float]
    passed: Counts


class Turns(msgspec.Struct, frozen=True):
    """The answer to one pass.

    Attributes:
        waited_s: of each chip that may start, the seconds since it asked first; 0.0 when it never waited.
        fleet_tokens: left in the fleet's bucket. line: chips that wait for a token, everywhere.
    """

    waited_s: Mapping[str, float]
    waits: Mapping[str, Waits]
    fleet_tokens: float
    line: int


def host_key(host: str) -> str:
    return _HOST + host


def provider_key(provider: str) -> str:
    return _PROVIDER + provider


def in_order(asks: Iterable[Ask], now: datetime) -> tuple[Ask, ...]:
    """Best place first; who waits since now says so."""
    known = (msgspec.structs.replace(a, waiting_since=min(a.waiting_since or now, now)) for a in asks)
    return tuple(sorted(known, key=lambda a: (a.start_order, a.waiting_since, a.chip_id)))


def refilled(bucket: Bucket, limit: Limit, now: datetime) -> float:
    """Tokens at `now`; a clock that was set back fills nothing."""
    age_s = max(0.0, (now - bucket.refilled_at).total_seconds())
    return min(limit.burst, bucket.tokens + limit.per_s * age_s)


def admit(
    asks: Sequence[Ask],
    ahead: Counts,
    buckets: Mapping[str, Bucket],
    pace: Pace,
    now: datetime,
) -> Admission:
    """Who of one pass may start.

    Args:
        asks: from `in_order`.
        ahead: by chip, how many others in line have a better place, by group.
        buckets: all that are stored; one that is not is full.
    """
    tokens = {key: refilled(bucket, pace.limit(key), now) for key, bucket in buckets.items()}
    granted: list[str] = []
    drawn: set[str] = set()
    passed: dict[str, Mapping[Group, int]] = {}
    waiting: dict[Group, int] = {}
    for ask in asks:
        keys = _keys(ask.group)
        left = _left_by(_sum(ahead.get(ask.chip_id, {}), waiting), tokens, pace)
        if all(_whole(_level(left, key, pace)) >= 1 for key in keys):
            _draw(tokens, keys, 1, pace)
            drawn.update(keys)
            granted.append(ask.chip_id)
        else:
            passed[ask.chip_id] = dict(waiting)
            waiting[ask.group] = waiting.get(ask.group, 0) + 1
    written = {key: Bucket(tokens[key], now) for key in sorted(drawn)}
    return Admission(tuple(granted), written, tokens, passed)


def waits_of(
    asks: Sequence[Ask], ahead: Counts, coming: Counts, admission: Admission, pace: Pace
) -> dict[str, Waits]:
    """Place and wait of each of these, to whom `admission` gave no token.

    `coming`: by chip, who is not in line yet and will soon be, ahead of it. They take nobody's token before they
    come; an estimate that left them out would grow with each of them.
    """
    found = {}
    for ask in asks:
        in_line = _sum(ahead.get(ask.chip_id, {}), admission.passed[ask.chip_id])
        before = _sum(in_line, coming.get(ask.chip_id, {}))
        position = 1 + sum(in_line.values())
        found[ask.chip_id] = Waits(position, estimate(ask, before, admission.tokens, pace))
    return found


def estimate(ask: Ask, ahead: Mapping[Group, int], tokens: Mapping[str, float], pace: Pace) -> float:
    """Seconds until `ask` gets its tokens, if nobody else comes: when its host, its provider and the fleet have
    served all ahead and have a token left.

    `ahead`: those in line, and those known to be about to join it there, by group. What a provider holds up is
    counted as served by the fleet, and the other way round: where both do, a start may come sooner, never later.
    """
    own = sum(count for (host, _), count in ahead.items() if host == ask.host)
    at_s = max(0.0, (own + 1 - _level(tokens, host_key(ask.host), pace)) / pace.host.per_s)
    on_hosts = _by_host(ahead, tokens, pace)
    fleet = _level(tokens, FLEET, pace)
    if ask.provider is None:
        return _first(fleet, pace.fleet, on_hosts, pace.host, at_s)
    key = provider_key(ask.provider)
    through = _by_host({group: n for group, n in ahead.items() if group[1] == ask.provider}, tokens, pace)
    while True:
        of_fleet_s = _first(fleet, pace.fleet, on_hosts, pace.host, at_s)
        at_s = _first(_level(tokens, key, pace), pace.provider, through, pace.host, of_fleet_s)
        if at_s <= of_fleet_s + _DUST:
            return at_s


def _first(
    level: float, limit: Limit, demands: Sequence[tuple[int, float]], host: Limit, from_s: float
) -> float:
    """The first moment from `from_s` on when a bucket has served what hosts let through and has a token left.

    `demands`: chips ahead and tokens of each host. What a host lets through grows until its chips are served, so
    what is left in the bucket is linear between these moments; it may fall before it rises.
    """
    ends = sorted((count - tokens) / host.per_s for count, tokens in demands)
    served = sum(min(count, tokens + host.per_s * from_s) for count, tokens in demands)
    left = level + limit.per_s * from_s - 1 - served
    for begins_s, ends_s in pairwise([from_s, *(end for end in ends if end > from_s), math.inf]):
        busy = sum(end >= ends_s for end in ends) if ends_s != math.inf else 0
        slope = limit.per_s - host.per_s * busy
        if left >= -_DUST:
            return begins_s
        if slope > 0 and begins_s - left / slope <= ends_s:
            return begins_s - left / slope
        left += slope * (ends_s - begins_s)
    raise AssertionError("a bucket that is refilled has a token at last")


def _by_host(ahead: Mapping[Group, int], tokens: Mapping[str, float], pace: Pace) -> list[tuple[int, float]]:
    counts: dict[str | None, int] = {}
    for (host, _), count in ahead.items():
        counts[host] = counts.get(host, 0) + count
    # One whose host is not known yet is held up by none.
    return [
        (count, float(count) if host is None else _level(tokens, host_key(host), pace))
        for host, count in counts.items()
    ]


def _left_by(ahead: Mapping[Group, int], tokens: Mapping[str, float], pace: Pace) -> dict[str, float]:
    """What those ahead leave when each takes what it could take now."""
    left = dict(tokens)
    for group, count in sorted(ahead.items(), key=repr):
        keys = _keys(group)
        _draw(left, keys, min(count, *(_whole(_level(left, key, pace)) for key in keys)), pace)
    return left


def _draw(tokens: dict[str, float], keys: Iterable[str], count: int, pace: Pace) -> None:
    for key in keys:
        tokens[key] = _level(tokens, key, pace) - count


def _keys(group: Group) -> tuple[str, ...]:
    host, provider = group
    named = (host and host_key(host), provider and provider_key(provider))
    return (FLEET, *(key for key in named if key))


def _level(tokens: Mapping[str, float], key: str, pace: Pace) -> float:
    return tokens.get(key, pace.limit(key).burst)


def _whole(tokens: float) -> int:
    return max(0, math.floor(tokens + _DUST))


def _sum(one: Mapping[Group, int], other: Mapping[Group, int]) -> dict[Group, int]:
    return {group: one.get(group, 0) + other.get(group, 0) for group in one.keys() | other.keys()}
