"""Tables of what chips go out through: providers, sub-users, labels, exits, usage. `tables.py` names all.

The API writes providers, sub-users and which label was asked for, and forgets readings that failed when an operator changed
what they failed on; the daemon writes labels and exits; guards' reports, through the API, usage and the trouble of providers
and sub-users.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from core.store.schema import Id, Time, metadata

providers = Table(
    "providers",
    metadata,
    Column("slug", String(40), primary_key=True),
    Column("title", String(80), nullable=False),
    Column("template", String(40), nullable=False),  # of core/providers.json
    Column("scheme", String(10), nullable=False),
    Column("host", Text),  # with the port: null = the template's own
    Column("port", Integer),
    Column("country", String(2), nullable=False, server_default=text("'br'")),
    Column("minutes", Integer, nullable=False, server_default=text("60")),  # how long an exit shall stay
    Column("cost_per_gb", Numeric(10, 4), nullable=False, server_default=text("0")),  # R$
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    Column("is_default", Boolean, nullable=False, server_default=text("false")),  # new labels are its
    Column("trouble", String(40)),  # EgressError that concerns all of it, as guards last told
    Column("trouble_at", Time),
    Column("created_at", Time, nullable=False, server_default=func.clock_timestamp()),
    Column("updated_at", Time, nullable=False, server_default=func.clock_timestamp()),
    CheckConstraint("scheme IN ('socks5', 'http')", name="scheme"),
    CheckConstraint("port BETWEEN 1 AND 65535", name="port"),
    CheckConstraint("cost_per_gb >= 0", name="cost"),
)
Index("uq_providers_default", providers.c.is_default, unique=True, postgresql_where=providers.c.is_default)

sub_users = Table(
    "sub_users",
    metadata,
    Column("id", Id, primary_key=True),
    Column("provider_slug", ForeignKey("providers.slug"), nullable=False),
    Column("login", Text, nullable=False),
    Column("sealed_password", LargeBinary, nullable=False),
    Column("max_labels", Integer, nullable=False, server_default=text("1000")),  # live ones
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    Column("trouble", String(40)),
    Column("trouble_at", Time),
    Column("created_at", Time, nullable=False, server_default=func.clock_timestamp()),
    UniqueConstraint("provider_slug", "login"),
    CheckConstraint("max_labels >= 1", name="max_labels"),
)

# Provider and sub-user are names here: a label outlives what it was made for, and its chip is then moved.
labels = Table(
    "labels",
    metadata,
    Column("chip_id", ForeignKey("chips.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", Id, nullable=False),
    Column("provider_slug", String(40), nullable=False),
    Column("sub_user_id", Id, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("label", String(64), nullable=False),  # as the provider takes it
    Column("why", String(20), nullable=False),
    Column("assigned_at", Time, nullable=False),
    Column("released_at", Time),
    Column(
        "requested_generation", BigInteger, nullable=False, server_default=text("0")
    ),  # beyond ours: wanted
    Column("exit_ip", Text),
    Column("exit_since", Time),  # since when this label has that exit
    Column("exit_at", Time),  # of the newest reading that succeeded
    Column("checked_at", Time),  # of the newest one
    Column("failure", String(40)),
    Column("failures", Integer, nullable=False, server_default=text("0")),  # in a row
    Column("failing_since", Time),
)
Index(
    "uq_labels_live",
    labels.c.provider_slug,
    labels.c.label,
    unique=True,
    postgresql_where=labels.c.released_at.is_(None),
)
Index("ix_labels_sub_user", labels.c.sub_user_id, postgresql_where=labels.c.released_at.is_(None))
Index(
    "ix_labels_exit_at",
    labels.c.provider_slug,
    labels.c.exit_at,
    postgresql_where=labels.c.released_at.is_(None),
)
Index("ix_labels_exit_ip", labels.c.exit_ip, postgresql_where=labels.c.released_at.is_(None))

# Which exit a chip had from when to when: a row for each change of label or exit.
exits = Table(
    "exits",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("chip_id", Id, nullable=False),
    Column("user_id", Id, nullable=False),
    Column("provider_slug", String(40), nullable=False),
    Column("label", String(64), nullable=False),
    Column("label_generation", BigInteger, nullable=False),
    Column("exit_ip", Text, nullable=False),
    Column("seen_from", Time, nullable=False),
    Column("seen_until", Time, nullable=False),
    Column(
        "why", String(20), nullable=False
    ),  # of the label; "provider" when the same label got another exit
)
Index("ix_exits_chip", exits.c.chip_id, exits.c.id)
Index("ix_exits_seen_until", exits.c.seen_until)

proxy_usage = Table(
    "proxy_usage",
    metadata,
    Column("month", Date, primary_key=True),  # its first day, UTC
    Column("user_id", Id, nullable=False),
    Column("chip_id", Id, primary_key=True),
    Column("provider_slug", String(40), primary_key=True),
    Column("bytes_in", BigInteger, nullable=False),  # that reached the chip
    Column("bytes_out", BigInteger, nullable=False),
    Column("tunnels", BigInteger, nullable=False),
    Column("errors", JSONB, nullable=False, server_default=text("'{}'")),  # count by EgressError
    Column("updated_at", Time, nullable=False, server_default=func.clock_timestamp()),
)
Index("ix_proxy_usage_user", proxy_usage.c.user_id, proxy_usage.c.month)

# So that a batch which comes twice counts once.
usage_batches = Table(
    "usage_batches",
    metadata,
    Column("batch_id", Id, primary_key=True),
    Column("node_id", Text, nullable=False),
    Column("received_at", Time, nullable=False, server_default=func.clock_timestamp()),
)
Index("ix_usage_batches_received_at", usage_batches.c.received_at)

# Who was told in a month that so many per cent of the plan's traffic are used, so that it is told once.
quota_notices = Table(
    "quota_notices",
    metadata,
    Column("month", Date, primary_key=True),
    Column("user_id", Id, primary_key=True),
    Column("percent", Integer, primary_key=True),
)
