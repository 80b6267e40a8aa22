"""The first schema, and the three plans."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.UUID(as_uuid=False)
_TIME = sa.DateTime(timezone=True)
_NOW = sa.text("clock_timestamp()")
_EMPTY = sa.text("'{}'")


def upgrade() -> None:
    _accounts()
    _containers()
    _chips()
    _placements()
    _work()
    _seed_plans()


def downgrade() -> None:
    for table in (
        "webhook_inbox",
        "leases",
        "chip_events",
        "port_ledger",
        "placements",
        "chips",
        "containers",
        "users",
        "plans",
    ):
        op.drop_table(table)


def _accounts() -> None:
    op.create_table(
        "plans",
        sa.Column("slug", sa.String(40), nullable=False),
        sa.Column("title", sa.String(80), nullable=False),
        sa.Column("max_chips", sa.Integer(), nullable=False),
        sa.Column("api_access", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("cpu_mhz", sa.Integer(), nullable=False),
        sa.Column("memory_mb", sa.Integer(), nullable=False),
        sa.Column("memory_max_mb", sa.Integer(), nullable=False),
        sa.Column("proxy_gb_limit", sa.Numeric(10, 3), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("slug", name="pk_plans"),
        sa.CheckConstraint("max_chips >= 0", name=op.f("ck_plans_max_chips")),
        sa.CheckConstraint("memory_max_mb >= memory_mb", name=op.f("ck_plans_memory")),
    )
    op.create_table(
        "users",
        sa.Column("id", _ID, nullable=False),
        sa.Column("email", sa.String(320), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("phone", sa.String(20), nullable=False),
        sa.Column("company_name", sa.String(200)),
        sa.Column("document", sa.String(14)),
        sa.Column("password_hash", sa.Text()),
        sa.Column("credits", sa.Integer(), server_default=sa.text("100"), nullable=False),
        sa.Column("plan_slug", sa.String(40), nullable=False),
        sa.Column("role", sa.String(20), server_default=sa.text("'user'"), nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("is_verified", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("suspended_at", _TIME),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("updated_at", _TIME, server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("email", name="uq_users_email"),
        sa.ForeignKeyConstraint(["plan_slug"], ["plans.slug"], name="fk_users_plan_slug"),
        sa.CheckConstraint("email = lower(email)", name=op.f("ck_users_email_lower")),
    )


def _containers() -> None:
    op.create_table(
        "containers",
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("generation", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("pinned", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("deleted_at", _TIME),
        sa.Column("namespace", sa.String(16), nullable=False),
        sa.Column("storage_id", sa.String(40), nullable=False),
        sa.Column("sealed_api_key", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_hook_key", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("observed_generation", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("phase", sa.String(20), server_default=sa.text("'absent'"), nullable=False),
        sa.Column("reason", sa.String(40)),
        sa.Column("status_since", _TIME, server_default=_NOW, nullable=False),
        sa.Column("spec_hash", sa.String(64)),
        sa.Column("spec_restart_hash", sa.String(64)),
        sa.Column("job_modify_index", sa.BigInteger()),
        sa.Column("variables_hash", sa.String(64)),
        sa.Column("allocation_id", _ID),
        sa.Column("node_name", sa.Text()),
        sa.Column("address", sa.Text()),
        sa.Column("port", sa.Integer()),
        sa.Column("endpoint_address", sa.Text()),
        sa.Column("endpoint_port", sa.Integer()),
        sa.Column("endpoint_allocation_id", _ID),
        sa.Column("empty_since", _TIME),
        sa.Column("observed_at", _TIME),
        sa.PrimaryKeyConstraint("user_id", name="pk_containers"),
        sa.UniqueConstraint("namespace", name="uq_containers_namespace"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_containers_user_id"),
    )


def _chips() -> None:
    op.create_table(
        "chips",
        sa.Column("id", _ID, nullable=False),
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("alias", sa.String(100), nullable=False),
        sa.Column("wanted", sa.String(20), server_default=sa.text("'connected'"), nullable=False),
        sa.Column("generation", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("intent_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("deleted_at", _TIME),
        sa.Column("annotations", JSONB(), server_default=_EMPTY, nullable=False),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("observed_generation", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("phase", sa.String(20), server_default=sa.text("'queued'"), nullable=False),
        sa.Column("reason", sa.String(40)),
        sa.Column("status", sa.String(20), server_default=sa.text("'WAITING_QR'"), nullable=False),
        sa.Column("status_since", _TIME, server_default=_NOW, nullable=False),
        sa.Column("waha_status", sa.String(40)),
        sa.Column("phone_number", sa.String(20)),
        sa.Column("push_name", sa.Text()),
        sa.Column("connected_at", _TIME),
        sa.Column("last_activity_at", _TIME),
        sa.Column("unlinked_generation", sa.BigInteger()),
        sa.Column("tries_generation", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("tries_failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("tries_qr_rounds", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("tries_last_at", _TIME),
        sa.Column("health_score", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("updated_at", _TIME, server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_chips"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_chips_user_id"),
        sa.CheckConstraint(
            "wanted IN ('connected', 'disconnected', 'deleted')", name=op.f("ck_chips_wanted")
        ),
        sa.CheckConstraint(
            "(wanted = 'deleted') = (deleted_at IS NOT NULL)", name=op.f("ck_chips_tombstone")
        ),
        sa.CheckConstraint("health_score BETWEEN 0 AND 100", name=op.f("ck_chips_health_score")),
    )
    op.create_index(
        "uq_chips_alias",
        "chips",
        ["user_id", sa.text("lower(alias)")],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index("ix_chips_user", "chips", ["user_id", "created_at", "id"])
    op.create_table(
        "chip_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("chip_id", _ID, nullable=False),
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.String(20), nullable=False),
        sa.Column("code", sa.String(40), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("extra_data", JSONB(), server_default=_EMPTY, nullable=False),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_chip_events"),
    )
    op.create_index("ix_chip_events_chip", "chip_events", ["chip_id", "id"])


def _placements() -> None:
    op.create_table(
        "placements",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("allocation_id", _ID, nullable=False),
        sa.Column("node_id", _ID, nullable=False),
        sa.Column("node_name", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("is_current", sa.Boolean(), nullable=False),
        sa.Column("lease_until", _TIME),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_placements"),
        sa.UniqueConstraint("allocation_id", name="uq_placements_allocation_id"),
        sa.UniqueConstraint("user_id", "epoch", name="uq_placements_user_id_epoch"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_placements_user_id"),
    )
    op.create_index(
        "uq_placements_current",
        "placements",
        ["user_id"],
        unique=True,
        postgresql_where=sa.text("is_current"),
    )
    op.create_table(
        "port_ledger",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("allocation_id", _ID, nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("opened_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("closed_at", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_port_ledger"),
        sa.UniqueConstraint("allocation_id", name="uq_port_ledger_allocation_id"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_port_ledger_user_id"),
        sa.CheckConstraint("port BETWEEN 1 AND 65535", name=op.f("ck_port_ledger_port")),
    )
    still_open = sa.text("closed_at IS NULL")
    op.create_index(
        "uq_port_ledger_open",
        "port_ledger",
        ["address", "port"],
        unique=True,
        postgresql_where=still_open,
    )
    op.create_index("ix_port_ledger_user_open", "port_ledger", ["user_id"], postgresql_where=still_open)


def _work() -> None:
    op.create_table(
        "leases",
        sa.Column("key", sa.String(80), nullable=False),
        sa.Column("owner", sa.String(80), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_leases"),
    )
    op.create_table(
        "webhook_inbox",
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("event_id", sa.String(80), nullable=False),
        sa.Column("event", sa.String(60), nullable=False),
        sa.Column("session", sa.String(80), nullable=False),
        sa.Column("body", JSONB(), nullable=False),
        sa.Column("received_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("processed_at", _TIME),
        sa.PrimaryKeyConstraint("user_id", "event_id", name="pk_webhook_inbox"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_webhook_inbox_user_id"),
    )
    op.create_index(
        "ix_webhook_inbox_waiting",
        "webhook_inbox",
        ["received_at"],
        postgresql_where=sa.text("processed_at IS NULL"),
    )


def _seed_plans() -> None:
    plans = sa.table(
        "plans",
        *(sa.column(name) for name in ("slug", "title", "max_chips", "api_access")),
        *(sa.column(name) for name in ("cpu_mhz", "memory_mb", "memory_max_mb")),
    )
    reserved = {"cpu_mhz": 200, "memory_mb": 300}
    op.bulk_insert(
        plans,
        [
            _plan("free", "Plano Free", 1) | reserved | {"memory_max_mb": 1024},
            _plan("business", "Plano Business", 3) | reserved | {"memory_max_mb": 1024},
            _plan("enterprise", "Plano Enterprise", 10) | reserved | {"memory_max_mb": 2048},
        ],
    )


def _plan(slug: str, title: str, max_chips: int) -> dict[str, object]:
    return {"slug": slug, "title": title, "max_chips": max_chips, "api_access": slug == "enterprise"}
