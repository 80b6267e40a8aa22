"""All tables. Desired columns are written by the API, observed ones by the daemon, and never the other way.

Migrations in `migrations/` build exactly these; a test compares both.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
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

from core.store.schema import Id, Time
from core.store.schema import metadata as metadata
from core.store.tables_access import api_keys as api_keys
from core.store.tables_access import audit_log as audit_log
from core.store.tables_access import refresh_families as refresh_families
from core.store.tables_egress import exits as exits
from core.store.tables_egress import labels as labels
from core.store.tables_egress import providers as providers
from core.store.tables_egress import proxy_usage as proxy_usage
from core.store.tables_egress import quota_notices as quota_notices
from core.store.tables_egress import sub_users as sub_users
from core.store.tables_egress import usage_batches as usage_batches
from core.store.tables_fleet import fleet_control as fleet_control
from core.store.tables_fleet import hosts as hosts
from core.store.tables_fleet import looks as looks
from core.store.tables_http import idempotency_keys as idempotency_keys
from core.store.tables_operations import container_logs as container_logs
from core.store.tables_operations import container_stats as container_stats
from core.store.tables_operations import orphans as orphans
from core.store.tables_operations import rollout_seats as rollout_seats
from core.store.tables_operations import rollouts as rollouts
from core.store.tables_operations import viewers as viewers


def _created() -> Column[object]:
    return Column("created_at", Time, nullable=False, server_default=func.clock_timestamp())


plans = Table(
    "plans",
    metadata,
    Column("slug", String(40), primary_key=True),
    Column("title", String(80), nullable=False),  # what people see: "Plano Free"
    Column("max_chips", Integer, nullable=False),
    Column("api_access", Boolean, nullable=False, server_default=text("false")),
    Column("cpu_mhz", Integer, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("memory_max_mb", Integer, nullable=False),
    Column("proxy_gb_limit", Numeric(10, 3), nullable=False, server_default=text("0")),  # 0 = no limit
    Column("start_order", Integer, nullable=False, server_default=text("20")),  # lower starts first
    CheckConstraint("max_chips >= 0", name="max_chips"),
    CheckConstraint("memory_max_mb >= memory_mb", name="memory"),
)

users = Table(
    "users",
    metadata,
    Column("id", Id, primary_key=True),
    Column("email", String(320), nullable=False, unique=True),  # lower case
    Column("name", String(100), nullable=False),
    Column("phone", String(20), nullable=False),  # E.164
    Column("company_name", String(200)),
    Column("document", String(14)),  # CPF or CNPJ, digits
    Column("password_hash", Text),
    Column("credits", Integer, nullable=False, server_default=text("100")),
    Column("plan_slug", ForeignKey("plans.slug"), nullable=False),
    Column("role", String(20), nullable=False, server_default=text("'user'")),
    Column("is_active", Boolean, nullable=False, server_default=text("true")),
    Column("is_verified", Boolean, nullable=False, server_default=text("false")),
    Column("suspended_at", Time),
    Column("profile_at", Time),  # when the upstream last told of it; none: an account of our own
    _created(),
    Column("updated_at", Time, nullable=False, server_default=func.clock_timestamp()),
    CheckConstraint("email = lower(email)", name="email_lower"),
)

containers = Table(
    "containers",
    metadata,
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    # desired
    Column("generation", BigInteger, nullable=False, server_default=text("1")),
    Column("pinned", Boolean, nullable=False, server_default=text("false")),
    Column("deleted_at", Time),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("restart_generation", BigInteger, nullable=False, server_default=text("0")),  # newest such wish
    Column("restart_allocation_id", Id),  # what ran when it was accepted
    Column("namespace", String(16), nullable=False, unique=True),
    Column("storage_id", String(40), nullable=False),
    Column("sealed_api_key", LargeBinary, nullable=False),
    Column("sealed_hook_key", LargeBinary, nullable=False),
    _created(),
    # observed
    Column("observed_generation", BigInteger, nullable=False, server_default=text("0")),
    Column("phase", String(20), nullable=False, server_default=text("'absent'")),
    Column("reason", String(40)),
    Column("status_since", Time, nullable=False, server_default=func.clock_timestamp()),
    Column("spec_hash", String(64)),
    Column("spec_restart_hash", String(64)),
    Column("spec_release", String(64)),  # of the settings that the registered job was made from
    Column("job_modify_index", BigInteger),
    Column("variables_hash", String(64)),
    Column("allocation_id", Id),  # newest live allocation, from the moment it is placed
    Column("node_name", Text),
    Column("address", Text),
    Column("port", Integer),
    Column("endpoint_address", Text),  # set only while the endpoint rule holds
    Column("endpoint_port", Integer),
    Column("endpoint_allocation_id", Id),
    Column("empty_since", Time),
    Column("isolated_at", Time),  # since when its storage is known to be its own
    Column("key_renewed_for", Id),  # the allocation that was replaced because it refused our key
    Column("restarted_generation", BigInteger, nullable=False, server_default=text("0")),
    Column("restart_mark", Integer),  # restarts of its task before the one that is under way
    Column("observed_at", Time),
    Column("at_rest", Boolean, nullable=False, server_default=text("false")),
    Column("looked_at", Time),  # when a pass last wrote, whether it saw the container or not
)

chips = Table(
    "chips",
    metadata,
    Column("id", Id, primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    # desired
    Column("alias", String(100), nullable=False),
    Column("wanted", String(20), nullable=False, server_default=text("'connected'")),
    Column("generation", BigInteger, nullable=False, server_default=text("1")),
    Column("intent_at", Time, nullable=False, server_default=func.clock_timestamp()),
    Column("consent", String(10), nullable=False, server_default=text("'none'")),  # of that intent alone
    Column("banned_at", Time),  # since when it is marked as banned by WhatsApp
    Column("released_generation", BigInteger, nullable=False, server_default=text("0")),
    Column("deleted_at", Time),  # tombstone: gone for its owner, kept until nothing is left outside
    Column("annotations", JSONB, nullable=False, server_default=text("'{}'")),
    _created(),
    # observed
    Column("observed_generation", BigInteger, nullable=False, server_default=text("0")),
    Column("phase", String(20), nullable=False, server_default=text("'queued'")),
    Column("reason", String(40)),
    Column("status", String(20), nullable=False, server_default=text("'WAITING_QR'")),
    Column("status_since", Time, nullable=False, server_default=func.clock_timestamp()),
    Column("waha_status", String(40)),
    Column("phone_number", String(20)),
    Column("push_name", Text),
    Column("connected_at", Time),
    Column("last_activity_at", Time),
    Column("unlinked_generation", BigInteger),
    Column("tries_generation", BigInteger, nullable=False, server_default=text("0")),
    Column("tries_failures", Integer, nullable=False, server_default=text("0")),
    Column("tries_qr_rounds", Integer, nullable=False, server_default=text("0")),
    Column("tries_last_at", Time),
    Column("health_score", Integer, nullable=False, server_default=text("0")),
    Column("memory", JSONB, nullable=False, server_default=text("'{}'")),  # core.domain.desired.Memory
    Column("waiting_since", Time),  # since when it is on its way to its connection, without a break
    Column("starts_at", Time),  # when its start token is expected
    # both: rises with every write that changes a rendered column, whoever wrote it
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    Column("updated_at", Time, nullable=False, server_default=func.clock_timestamp()),
    CheckConstraint("wanted IN ('connected', 'disconnected', 'deleted')", name="wanted"),
    CheckConstraint("consent IN ('none', 'press', 'fresh')", name="consent"),
    CheckConstraint("(wanted = 'deleted') = (deleted_at IS NOT NULL)", name="tombstone"),
    CheckConstraint("health_score BETWEEN 0 AND 100", name="health_score"),
)
Index(
    "uq_chips_alias",
    chips.c.user_id,
    func.lower(chips.c.alias),
    unique=True,
    postgresql_where=chips.c.deleted_at.is_(None),
)
Index("ix_chips_user", chips.c.user_id, chips.c.created_at, chips.c.id)
Index("ix_chips_waiting", chips.c.waiting_since, postgresql_where=chips.c.waiting_since.is_not(None))

placements = Table(
    "placements",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("allocation_id", Id, nullable=False, unique=True),
    Column("node_id", Id, nullable=False),
    Column("node_name", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("is_current", Boolean, nullable=False),
    Column("lease_until", Time),  # until when a guard may forward for it
    Column("grant_number", BigInteger, nullable=False, server_default=text("0")),  # of that lease
    _created(),
    UniqueConstraint("user_id", "epoch"),
)
Index("uq_placements_current", placements.c.user_id, unique=True, postgresql_where=placements.c.is_current)

guard_grants = Table(
    "guard_grants",
    metadata,
    Column("id", Integer, primary_key=True),  # one row, 1
    Column("granted_after", Time, nullable=False),  # no new lease before that
    Column("server_started_at", Time, nullable=False),  # of the server that the last batch spoke to
    Column("clock", Time, nullable=False),  # that server's, at a batch not long ago
    CheckConstraint("id = 1", name="one_row"),
)

port_ledger = Table(
    "port_ledger",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("allocation_id", Id, nullable=False, unique=True),
    Column("address", Text, nullable=False),
    Column("port", Integer, nullable=False),
    Column("opened_at", Time, nullable=False, server_default=func.clock_timestamp()),
    Column("closed_at", Time),
    CheckConstraint("port BETWEEN 1 AND 65535", name="port"),
)
Index(
    "uq_port_ledger_open",
    port_ledger.c.address,
    port_ledger.c.port,
    unique=True,
    postgresql_where=port_ledger.c.closed_at.is_(None),
)
# For everything of a user: a container's removal, and the check when an account is removed.
Index("ix_port_ledger_user", port_ledger.c.user_id)
Index("ix_port_ledger_closed", port_ledger.c.closed_at, postgresql_where=port_ledger.c.closed_at.is_not(None))

# What passes saw of a user, for explanations alone: no rule of the loop reads it.
evidence = Table(
    "evidence",
    metadata,
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("observed_at", Time, nullable=False),  # when it last changed in meaning
    Column("digest", String(32), nullable=False),  # of what the last pass saw, without trails
    Column("body", JSONB, nullable=False),
)

chip_events = Table(
    "chip_events",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("chip_id", Id, nullable=False),
    Column("user_id", Id, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("type", String(20), nullable=False),
    Column("code", String(40), nullable=False),
    Column("description", Text, nullable=False),  # pt-BR
    Column("extra_data", JSONB, nullable=False, server_default=text("'{}'")),
    _created(),
)
Index("ix_chip_events_chip", chip_events.c.chip_id, chip_events.c.id)
Index("ix_chip_events_created", chip_events.c.created_at)  # for what is old enough to be forgotten

leases = Table(
    "leases",
    metadata,
    Column("key", String(80), primary_key=True),  # a user id, or "fleet"
    Column("owner", String(80), nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("expires_at", Time, nullable=False),
    Column("claimed_at", Time),
    # The last look that saw everything: since when what it saw is true, and whose it was.
    Column("looked_at", Time),
    Column("looked_by", String(80)),
)

start_buckets = Table(
    "start_buckets",
    metadata,
    Column("key", Text, primary_key=True),  # "fleet", "host:<name>", "provider:<name>"; none = full
    Column("tokens", Double, nullable=False),
    Column("refilled_at", Time, nullable=False),
)

start_queue = Table(
    "start_queue",
    metadata,
    Column("chip_id", Id, primary_key=True),
    Column("user_id", Id, nullable=False),
    Column("host", Text, nullable=False),
    Column("provider", Text),
    Column("start_order", Integer, nullable=False),
    Column("waiting_since", Time, nullable=False),
    Column("asked_at", Time, nullable=False),  # first
    Column("expires_at", Time, nullable=False),  # unless asked again
)

webhook_inbox = Table(
    "webhook_inbox",
    metadata,
    # Ids are given by the containers: one user's can never hide another's.
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("event_id", String(80), primary_key=True),
    Column("event", String(60), nullable=False),
    Column("session", String(80), nullable=False),
    Column("body", JSONB, nullable=False),
    Column("received_at", Time, nullable=False, server_default=func.clock_timestamp()),
    Column("processed_at", Time),
)
Index(
    "ix_webhook_inbox_waiting",
    webhook_inbox.c.received_at,
    postgresql_where=webhook_inbox.c.processed_at.is_(None),
)
