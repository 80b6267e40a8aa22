"""What a batch of usage means for the trouble of providers and sub-users, and when a quota is told of. Pure.

Trouble is set by what guards meet and cleared by what they get through:

- `traffic_exhausted` concerns the whole provider, `proxy_auth` the sub-user: set by a batch in which none of their
  tunnels opened, for one that did shows that the others' failing is not theirs.
- `threads_exhausted` concerns the sub-user and is set by any batch that has it: a full login carries what it carries.
- A batch without such an error in which a tunnel opened clears it. Whoever tells of nothing changes nothing, and what
  nobody tells again counts no more after a while (`core.domain.routes.trouble_now`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final

import msgspec

from core.domain.egress_errors import EgressError
from core.domain.quota import GIB
from core.domain.routes import OF_PROVIDER, OF_SUB_USER

# Per cent of the plan's traffic of a month.
TOLD_AT: Final = (80, 100)


class Carried(msgspec.Struct, frozen=True):
    """What went, or did not go, through one sub-user in a batch."""

    provider: str
    sub_user_id: str
    tunnels: int
    errors: Mapping[EgressError, int]


class Verdict(msgspec.Struct, frozen=True):
    """`trouble`: as told; None = it works."""

    trouble: EgressError | None


def verdicts(carried: Iterable[Carried]) -> tuple[dict[str, Verdict], dict[str, Verdict]]:
    """By provider and by sub-user; who is not named was not tried."""
    by_provider: dict[str, list[Carried]] = {}
    by_sub_user: dict[str, list[Carried]] = {}
    for one in carried:
        by_provider.setdefault(one.provider, []).append(one)
        by_sub_user.setdefault(one.sub_user_id, []).append(one)
    return _judged(by_provider, OF_PROVIDER), _judged(by_sub_user, OF_SUB_USER)


def _judged(groups: Mapping[str, list[Carried]], theirs: frozenset[EgressError]) -> dict[str, Verdict]:
    found = {}
    for name, group in groups.items():
        opened = any(one.tunnels for one in group)
        met = sorted(theirs & {error for one in group for error, count in one.errors.items() if count})
        if EgressError.THREADS_EXHAUSTED in met:
            found[name] = Verdict(EgressError.THREADS_EXHAUSTED)
        elif met and not opened:
            found[name] = Verdict(met[0])
        elif opened:
            found[name] = Verdict(None)
    return found


def left_bytes(limit_gb: Decimal, used: int) -> int | None:
    """What a plan leaves of its month; None = no limit."""
    return None if limit_gb <= 0 else max(0, int(limit_gb * GIB) - used)


def percents_reached(limit_gb: Decimal, used: int) -> tuple[int, ...]:
    """Which of `TOLD_AT` are reached; none without a limit."""
    if limit_gb <= 0:
        return ()
    return tuple(percent for percent in TOLD_AT if 100 * used >= percent * limit_gb * GIB)


def notice_text(percent: int) -> str:
    """What a chip's history says."""
    if percent >= 100:
        return (
            "Limite de tráfego de proxy do plano atingido: novas conexões ficam bloqueadas até o próximo mês."
        )
    return f"{percent}% do tráfego de proxy do plano neste mês já foi usado."
