"""How the chips of other users fare that share something with one user's, in one statement."""

from __future__ import annotations

from sqlalchemy import Select, and_, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from core.domain.desired import Wanted
from core.domain.facts import Group, Peers
from core.domain.states import ChipPhase
from core.store.tables import chips, containers, labels

# On the ladder, or at its end.
FAILING = (ChipPhase.RECONNECTING, ChipPhase.RETRYING, ChipPhase.FAILED)


async def read(connection: AsyncConnection, user_id: str, window_s: float) -> Peers:
    """See `ReconcileStore.peers`. All containers run one engine version; providers are those of the user's labels."""
    values = {"user_id": user_id, "window_s": window_s}
    row = (await connection.execute(_PEERS, values)).one()
    return Peers(
        host=Group(row.host_failing, row.host_lately, row.host_connected),
        engine=Group(row.all_failing, row.all_lately, row.all_connected),
        provider=Group(row.provider_failing, row.provider_lately, row.provider_connected),
    )


def _peers() -> Select[int, int, int, int, int, int, int, int, int]:
    host = select(containers.c.node_name).where(containers.c.user_id == bindparam("user_id"))
    since = func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, bindparam("window_s"))
    failing = chips.c.phase.in_([phase.value for phase in FAILING])
    lately = and_(failing, chips.c.status_since > since)
    connected = chips.c.phase == ChipPhase.CONNECTED.value
    beside = containers.c.node_name == host.scalar_subquery()
    own, live = labels.alias("own"), labels.c.released_at.is_(None)
    ours = select(own.c.provider_slug).where(
        own.c.user_id == bindparam("user_id"), own.c.released_at.is_(None)
    )
    through = labels.c.provider_slug.in_(ours)
    return (
        select(
            func.count().filter(failing, beside).label("host_failing"),
            func.count().filter(lately, beside).label("host_lately"),
            func.count().filter(connected, beside).label("host_connected"),
            func.count().filter(failing, through).label("provider_failing"),
            func.count().filter(lately, through).label("provider_lately"),
            func.count().filter(connected, through).label("provider_connected"),
            func.count().filter(failing).label("all_failing"),
            func.count().filter(lately).label("all_lately"),
            func.count().filter(connected).label("all_connected"),
        )
        .select_from(chips)
        .join(containers, containers.c.user_id == chips.c.user_id)
        .outerjoin(labels, and_(labels.c.chip_id == chips.c.id, live))
        .where(
            chips.c.user_id != bindparam("user_id"),
            chips.c.wanted == Wanted.CONNECTED.value,
            chips.c.connected_at.is_not(None),
            chips.c.unlinked_generation.is_(None),
        )
    )


_PEERS = _peers()
