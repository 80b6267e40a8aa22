"""The implementations that the store's contract is run against."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from core.store.engine import engine_for
from tests.contract.store.harness import Harness, PostgresHarness
from tests.integration.conftest import database_url, postgres, template_database

__all__ = ["database_url", "postgres", "template_database"]


@pytest.fixture(params=["postgres"])
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    """One store with nothing in it but the plans."""
    # Asked for by name: an implementation without PostgreSQL shall not wait for one.
    engine = engine_for(request.getfixturevalue("database_url"), pool_size=10)
    yield PostgresHarness(engine)
    await engine.dispose()
