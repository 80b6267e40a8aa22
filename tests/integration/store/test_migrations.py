"""The migrations build the tables that the code uses, from nothing, also when several processes try at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from core.errors import Rejected, Unavailable
from core.store import migrate
from core.store.engine import engine_for
from core.store.tables import metadata
from sandbox.postgres import EmbeddedPostgres

# Everything of a schema that PostgreSQL can print, as it prints it: partial indexes' conditions and
# server defaults too, which a comparison through SQLAlchemy only half sees.
_COLUMNS = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
       pg_get_expr(d.adbin, d.adrelid)
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0
  AND c.relname <> 'alembic_version'
"""
_CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND conrelid <> 'alembic_version'::regclass
"""
_INDEXES = """
SELECT tablename, indexname, indexdef FROM pg_indexes
WHERE schemaname = 'public' AND tablename <> 'alembic_version'
"""


async def _dump(url: str, *, create: bool) -> dict[str, set[tuple[Any, ...]]]:
    engine = engine_for(url)
    try:
        async with engine.begin() as connection:
            if create:
                await connection.run_sync(metadata.create_all)
                await connection.execute(text("CREATE TABLE alembic_version (version_num text)"))
            found = {}
            for name, query in (
                ("columns", _COLUMNS),
                ("constraints", _CONSTRAINTS),
                ("indexes", _INDEXES),
            ):
                found[name] = {tuple(row) for row in await connection.execute(text(query))}
            return found
    finally:
        await engine.dispose()


async def test_migrated_schema_is_the_one_of_tables_py(database_url: str, postgres: EmbeddedPostgres) -> None:
    from_metadata = postgres.create_database("from_metadata")
    try:
        wanted = await _dump(from_metadata, create=True)
        have = await _dump(database_url, create=False)
    finally:
        postgres.drop_database("from_metadata")
    assert len(wanted["columns"]) > 50
    assert have["columns"] == wanted["columns"]
    assert have["constraints"] == wanted["constraints"]
    assert have["indexes"] == wanted["indexes"]


async def test_autogenerate_has_nothing_to_add(database_url: str) -> None:
    def differences(connection: Connection) -> list[Any]:
        options = {"compare_type": True, "compare_server_default": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    engine = engine_for(database_url)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_plans_are_seeded(database_url: str) -> None:
    engine = engine_for(database_url)
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT * FROM plans ORDER BY max_chips"))
        plans = [tuple(row)[:7] for row in rows]
    await engine.dispose()
    assert plans == [
        ("free", "Plano Free", 1, False, 200, 300, 1024),
        ("business", "Plano Business", 3, False, 200, 300, 1024),
        ("enterprise", "Plano Enterprise", 10, True, 200, 300, 2048),
    ]


def test_up_down_and_up_again(empty_database_url: str) -> None:
    assert migrate.current(empty_database_url) is None
    assert migrate.upgrade(empty_database_url) == migrate.head()
    assert migrate.current(empty_database_url) == migrate.head()
    assert migrate.upgrade(empty_database_url) == migrate.head()  # nothing left to do
    migrate.downgrade(empty_database_url, "base")
    assert migrate.current(empty_database_url) is None
    assert migrate.upgrade(empty_database_url) == migrate.head()


def test_several_processes_may_migrate_at_once(empty_database_url: str) -> None:
    code = "import sys; from core.store.migrate import upgrade; print(upgrade(sys.argv[1]))"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, empty_database_url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    outcomes = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], outcomes
    assert [out.strip() for out, _ in outcomes] == [migrate.head()] * 3


async def test_migration_waits_for_the_lock_of_another(empty_database_url: str) -> None:
    engine = engine_for(empty_database_url)
    async with engine.connect() as holder:
        await holder.execute(text("SELECT pg_advisory_lock(:key)"), {"key": migrate._LOCK_KEY})
        await holder.commit()
        running = asyncio.create_task(asyncio.to_thread(migrate.upgrade, empty_database_url))
        done, _ = await asyncio.wait({running}, timeout=0.5)
        assert not done
        assert await asyncio.to_thread(migrate.current, empty_database_url) is None
        await holder.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": migrate._LOCK_KEY})
        await holder.commit()
    assert await running == migrate.head()
    await engine.dispose()


def test_unreachable_and_unreadable_urls_are_our_errors() -> None:
    with pytest.raises(Unavailable) as away:
        migrate.upgrade("postgresql+asyncpg://nobody@/x?host=/nonexistent")
    assert away.value.system == "postgres"
    with pytest.raises(Rejected) as odd:
        migrate.upgrade("postgresql+asyncpg://user:hunter2@host:port/database")
    assert "hunter2" not in str(odd.value)
