"""The real PostgreSQL and Valkey that the integration tests run on.

Each pytest process (each xdist worker) has servers of its own: starting PostgreSQL from nothing takes
0.6 s and Valkey 0.1 s, less than what sharing them over processes would cost in locks and bookkeeping.
A test gets a database of its own, cloned from a migrated template in about 30 ms (in memory; 250 ms on a disk).
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import itertools
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from sandbox.postgres import EmbeddedPostgres, scratch_folder
from sandbox.valkey import EmbeddedValkey

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server without crash safety, gone after the session."""
    folder = scratch_folder()
    try:
        with EmbeddedPostgres.start(folder, durable=False) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def template_database(postgres: EmbeddedPostgres) -> str:
    """Name of a database that all migrations have run on and that nobody is connected to."""
    url = postgres.create_database("template_migrated")
    upgrade = importlib.import_module("core.store.migrate").upgrade

    def migrate() -> None:
        outcome = upgrade(url)
        if inspect.isawaitable(outcome):

            async def wait() -> None:
                await outcome

            asyncio.run(wait())

    # In a thread of its own: this fixture may be set up while pytest-asyncio's loop is running.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(migrate).result()
    return "template_migrated"


@pytest.fixture
def database_url(postgres: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """SQLAlchemy URL of a migrated database that only this test uses."""
    name = f"test_{next(_numbers)}"
    url = postgres.create_database(name, template=template_database)
    yield url
    postgres.drop_database(name)


@pytest.fixture
def empty_database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """SQLAlchemy URL of a database without any table, for tests of the migrations themselves."""
    name = f"test_{next(_numbers)}"
    url = postgres.create_database(name)
    yield url
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def valkey() -> Iterator[EmbeddedValkey]:
    """A Valkey server, gone after the session. Do not stop it: start one of your own for that."""
    folder = scratch_folder()
    try:
        with EmbeddedValkey.start(folder) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def redis_url(valkey: EmbeddedValkey) -> str:
    """URL of an empty Redis."""
    url = valkey.url()
    client = redis.Redis.from_url(url)
    try:
        client.flushall()
    finally:
        client.close()
    return url
