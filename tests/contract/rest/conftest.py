"""The running application on PostgreSQL and Valkey, as the integration tests have it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.api.conftest import Running, Start, start
from tests.integration.conftest import database_url, postgres, redis_url, template_database, valkey

__all__ = ["database_url", "postgres", "redis_url", "start", "template_database", "valkey"]


@pytest.fixture
async def running(start: Start, redis_url: str) -> AsyncIterator[Running]:
    async with start(redis_url=redis_url) as application:
        yield application
