"""Parts die or freeze in the middle of their work; what was wished for still comes true."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.e2e.running import Client, Up, scratch, until

pytestmark = pytest.mark.xdist_group("crashes")


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    """A sandbox that these tests may break."""
    with scratch() as folder:
        made = Up(folder, "--nomad", "double", "--consul", "double", WAHAFLEET_NOMAD_TIMEOUT_S="2")
        try:
            yield made.wait_ready()
        finally:
            made.end()


@pytest.fixture
def client(up: Up) -> Iterator[Client]:
    with up.client() as made:
        yield made
        for chip in made.chips():
            made.delete(chip["id"])


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.15, 0.3, 0.6])
def test_a_daemon_killed_in_the_middle_of_a_create_is_back_and_the_qr_comes(
    up: Up, client: Client, after_s: float
) -> None:
    daemon = up.pid("daemon")
    chip = client.create("killed", Prefer="respond-async")["id"]
    time.sleep(after_s)
    os.kill(daemon, signal.SIGKILL)
    client.wait_qr(chip, 30)
    # The code may have been there before the daemon was killed.
    until(lambda: up.pid("daemon") != daemon, 20, "the daemon is started again")
    assert "daemon    was ended by signal 9; starting it again" in up.said()


# The store comes last: for one life of a lease after its restart no guard is given a new one (decision 0008), so a guard
# that dies within that time is a second fault, whose chips wait for it to end.
@pytest.mark.parametrize(
    "part", ["api", "daemon", "nomad", "consul", "valkey", "guard-1", "provider", "postgres"]
)
def test_every_part_that_is_killed_comes_back(up: Up, client: Client, part: str) -> None:
    chip = client.create(f"survives {part}")["id"]
    client.wait_qr(chip)
    before = up.pid(part)
    os.kill(before, signal.SIGKILL)
    until(lambda: up.pid(part) != before, 20, f"{part} is started again")

    def answers() -> bool:
        try:
            return client.http.get(f"/chips/{chip}").status_code == 200
        except client.transport_errors:
            return False

    until(answers, 30, "the API answers")
    assert client.wait_qr(chip, 90)
    other = client.create(f"after {part}")["id"]
    client.wait_qr(other, 60)


@pytest.mark.parametrize("part", ["nomad", "consul"])
def test_while_a_dependency_does_not_answer_chips_stay_readable_and_intents_are_kept(
    up: Up, client: Client, part: str
) -> None:
    first = client.create("first")["id"]
    client.wait_qr(first)
    frozen = up.pid(part)
    os.kill(frozen, signal.SIGSTOP)
    try:
        assert client.chip(first)["alias"] == "first"
        second = client.create("second", Prefer="wait=1")
        assert second["status"] == "WAITING_QR"

        def reason() -> str | None:
            return str(client.chip(second["id"])["extra_data"]["reason"] or "")

        if part == "nomad":
            assert until(reason, 30, "the reason is shown") == "dependency_nomad"
        assert [chip["alias"] for chip in client.chips()] == ["first", "second"]
    finally:
        os.kill(frozen, signal.SIGCONT)
    client.wait_qr(second["id"], 60)
    assert client.chip(second["id"])["extra_data"]["reason"] is None


def test_without_a_cache_everything_works_only_slower(up: Up, client: Client) -> None:
    frozen = up.pid("valkey")
    os.kill(frozen, signal.SIGSTOP)
    try:
        chip = client.create("no cache")["id"]
        client.wait_qr(chip, 60)
        ready = client.http.get(f"{up.url}/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    finally:
        os.kill(frozen, signal.SIGCONT)
