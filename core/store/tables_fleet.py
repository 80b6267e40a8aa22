"""Tables of the fleet as a whole, for operators. `tables.py` names all."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, ForeignKey, Integer, String, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

from core.store.schema import Id, Time, metadata

# An operator's word on all users at once; without a row nothing was ever said, and the fleet runs.
fleet_control = Table(
    "fleet_control",
    metadata,
    Column("id", Integer, primary_key=True),  # one row, 1
    Column("paused", Boolean, nullable=False),
    Column("reason", Text),  # as the operator gave it
    Column("decided_by", Text, nullable=False),
    Column("since", Time, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)

# What the newest pass saw of a user and did about it, for the plan alone: no rule of the loop reads it.
looks = Table(
    "looks",
    metadata,
    Column("user_id", ForeignKey("containers.user_id", ondelete="CASCADE"), primary_key=True),
    Column("digest", String(32), nullable=False),  # of `body`
    Column("observed_at", Time, nullable=False),  # when it last changed in meaning
    Column("body", JSONB, nullable=False),  # core.domain.looks.Look
)

# What the newest sweep saw of the hosts, written by the holder of the lease `fleet`.
hosts = Table(
    "hosts",
    metadata,
    Column("name", Text, primary_key=True),
    Column("node_id", Id, nullable=False),
    Column("address", Text),
    Column("containers", Integer, nullable=False),  # allocations that run there, of ours
    Column("ports_used", Integer, nullable=False),
    Column("memory_mb", BigInteger),  # that they reserve; null where the list does not say
    Column("observed_at", Time, nullable=False),
)
