"""Tables of what operators look at and steer: look-ins, orphans, rollouts. `tables.py` has the others and names all."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from core.store.schema import Id, Time, metadata

# Somebody looks into a container: written by the API, renewed with each request.
viewers = Table(
    "viewers",
    metadata,
    Column("user_id", ForeignKey("containers.user_id", ondelete="CASCADE"), primary_key=True),
    Column("what", String(10), primary_key=True),
    Column("until", Time, nullable=False),
    CheckConstraint("what IN ('stats', 'logs')", name="what"),
)

# What they see, written by the daemon that samples.
container_stats = Table(
    "container_stats",
    metadata,
    Column("user_id", ForeignKey("containers.user_id", ondelete="CASCADE"), primary_key=True),
    Column("allocation_id", Id, nullable=False),
    Column("cpu_percent", Float, nullable=False),  # 100 = one core
    Column("memory_bytes", BigInteger, nullable=False),
    Column("sampled_at", Time, nullable=False),
)

container_logs = Table(
    "container_logs",
    metadata,
    Column("user_id", ForeignKey("containers.user_id", ondelete="CASCADE"), primary_key=True),
    Column("allocation_id", Id, nullable=False),
    Column("task", Text, nullable=False),
    Column("lines", Text, nullable=False),  # the newest whole lines, redacted, 256 KiB at most
    Column("last_line", BigInteger, nullable=False),  # number of the newest one; 0 = none yet
    Column("positions", JSONB, nullable=False),  # how far each stream was taken
    Column("read_at", Time, nullable=False),
)

orphans = Table(
    "orphans",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("name", Text, nullable=False),
    Column("place", Text, nullable=False),  # storage id, user id or allocation, by kind; "" for none
    Column("user_id", Id),  # as its name says; there is no such row, or it explains nothing
    Column("fingerprint", Text, nullable=False),
    Column("costs", JSONB, nullable=False),
    Column("first_seen", Time, nullable=False),
    Column("last_seen", Time, nullable=False),
    Column("state", String(20), nullable=False, server_default=text("'seen'")),
    Column("decided_by", Text),
    Column("decided_at", Time),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("next_try_at", Time),
    Column("note", Text),
    UniqueConstraint("kind", "name", "place"),
    CheckConstraint(
        "state IN ('seen', 'waiting', 'approved', 'kept', 'removing', 'failed', 'removed')", name="state"
    ),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column(
        "release", String(64), primary_key=True
    ),  # fingerprint of what in the settings restarts containers
    Column("announced_at", Time, nullable=False, server_default=func.clock_timestamp()),  # newest one rules
    Column("state", String(10), nullable=False, server_default=text("'running'")),
    Column("why", String(20)),  # of a pause: failures or operator
    Column("decided_by", Text),  # who paused or resumed it; null = it did so itself
    Column("state_since", Time, nullable=False, server_default=func.clock_timestamp()),
    # Moves settled since then count: when it was announced, begun anew or resumed.
    Column("counted_from", Time, nullable=False, server_default=func.clock_timestamp()),
    CheckConstraint("state IN ('running', 'paused', 'done')", name="state"),
)

rollout_seats = Table(
    "rollout_seats",
    metadata,
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("release", String(64), nullable=False),
    Column("restart_hash", String(64), nullable=False),  # of the job that the seat is for
    Column("state", String(10), nullable=False, server_default=text("'waiting'")),
    Column("broken", Boolean, nullable=False, server_default=text("false")),
    Column(
        "connected", JSONB, nullable=False, server_default=text("'[]'")
    ),  # chip ids; see core/domain/seat.py
    Column("moved_from", Id),
    Column("asked_at", Time, nullable=False, server_default=func.clock_timestamp()),
    Column("admitted_at", Time),
    Column("settled_at", Time),
    Column("why", String(20)),  # of a failure: pairing or late
    CheckConstraint("state IN ('waiting', 'moving', 'ok', 'failed')", name="state"),
)
Index("ix_rollout_seats_release", rollout_seats.c.release, rollout_seats.c.state, rollout_seats.c.settled_at)
