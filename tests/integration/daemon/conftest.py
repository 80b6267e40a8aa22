"""The real daemon on embedded PostgreSQL, with the doubles of Nomad and Consul and real simulators."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.daemon.fleet import Fleet as Fleet
from tests.integration.daemon.fleet import has as has
from tests.integration.daemon.fleet import running_fleet
from tests.integration.daemon.fleet import until as until


@pytest.fixture
async def fleet(database_url: str) -> AsyncIterator[Fleet]:
    """A small system of this test alone."""
    async with running_fleet(database_url) as made:
        yield made
