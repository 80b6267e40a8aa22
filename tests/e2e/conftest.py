"""One sandbox for all tests that do not break it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.running import Client, Up, scratch


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Up]:
    """Doubles of Nomad and Consul; outside systems are given up on after 2 s instead of 10."""
    with scratch() as folder:
        up = Up(folder, "--nomad", "double", "--consul", "double", WAHAFLEET_NOMAD_TIMEOUT_S="2")
        try:
            yield up.wait_ready()
        finally:
            up.end()


@pytest.fixture
def client(sandbox: Up) -> Iterator[Client]:
    """The first user; chips that a test leaves behind are deleted."""
    with sandbox.client() as made:
        yield made
        for chip in made.chips():
            made.delete(chip["id"])
