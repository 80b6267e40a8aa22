"""The implementations that the store's contract is run against."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from core.store.engine import engine_for, transaction
from core.store.tables import metadata
from sandbox.postgres import EmbeddedPostgres
from tests.contract.store.harness import Harness, PostgresHarness
from tests.contract.store.memory_harness import MemoryHarness
from tests.integration.conftest import postgres, template_database

__all__ = ["postgres", "template_database"]

_EMPTIED = ", ".join(table.name for table in metadata.sorted_tables if table.name != "plans")


@pytest.fixture(scope="session")
def contract_database_url(postgres: EmbeddedPostgres, template_database: str) -> str:
    """One database for the whole suite: emptying it takes a tenth of the time of cloning another."""
    return postgres.create_database("contract_store", template=template_database)


@pytest.fixture(params=["postgres", "memory"])
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    """One store with nothing in it but the plans."""
    if request.param == "memory":
        yield MemoryHarness()
        return
    # Asked for by name: an implementation without PostgreSQL shall not wait for one.
    engine = engine_for(request.getfixturevalue("contract_database_url"), pool_size=10)
    async with transaction(engine) as connection:
        await connection.execute(text(f"TRUNCATE {_EMPTIED} RESTART IDENTITY"))
    yield PostgresHarness(engine)
    await engine.dispose()
