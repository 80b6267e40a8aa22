"""What is decided at the daemon's start."""

from __future__ import annotations

import msgspec
import pytest
from cryptography.fernet import Fernet
from structlog.testing import capture_logs

from core import jobspecs
from core.clock import SystemClock
from core.domain.desired import Resources
from core.domain.jobspec_template import JobspecError
from core.domain.policy import Policy
from core.policies import policy_of
from core.settings import Secret, Settings, load
from core.store.interface import UserSnapshot
from daemon.load import Loader
from daemon.main import contradictions, owner_name, ways_out
from daemon.metrics import Metrics
from tests.memory_store import MemoryStore
from tests.unit.daemon.system import C1, JOBS, LOOP, U1
from tests.unit.daemon.virtual import LoopClock, run_virtual


def settings(**env: str) -> Settings:
    needed = {
        "WAHAFLEET_DATABASE_URL": "postgresql+asyncpg://u@h/d",
        "WAHAFLEET_SECRET_KEYS": Fernet.generate_key().decode(),
        "WAHAFLEET_STORAGE_DSN": "postgres://u:p@h/d",
    }
    return load(needed | env, part="daemon")


def test_the_shipped_settings_let_every_effect_start() -> None:
    assert contradictions(settings()) == []


@pytest.mark.parametrize(
    "env",
    [
        {"WAHAFLEET_PASS_DEADLINE_S": "40"},
        {"WAHAFLEET_NOMAD_TIMEOUT_S": "30"},
    ],
)
def test_a_pass_too_short_for_its_effects_is_refused_at_start(env: dict[str, str]) -> None:
    (problem,) = contradictions(settings(**env))
    assert "WAHAFLEET_PASS_DEADLINE_S" in problem


def test_without_a_guard_nothing_starts_unless_it_was_said_in_so_many_words() -> None:
    assert policy_of(LOOP).egress == "direct"
    assert policy_of(msgspec.structs.replace(LOOP, egress=None)).egress is None
    assert policy_of(msgspec.structs.replace(LOOP, egress="guard")) == Policy(
        egress="guard", exit_readings=False, empty_grace_s=0
    )
    url = "http://127.0.0.1/ip"
    assert policy_of(msgspec.structs.replace(LOOP, egress="guard", exit_echo_url=url)).exit_readings


@pytest.mark.parametrize("echo_url", ["http://127.0.0.1/ip", None])
def test_with_a_guard_the_daemon_makes_ways_out_and_says_when_it_reads_no_exits(echo_url: str | None) -> None:
    made = settings()
    assert ways_out(made, MemoryStore(SystemClock()), Metrics()) is None
    loop = msgspec.structs.replace(made.loop, egress="guard", exit_echo_url=echo_url)
    with capture_logs() as logs:
        ways = ways_out(msgspec.structs.replace(made, loop=loop), MemoryStore(SystemClock()), Metrics())
    assert ways is not None
    assert (ways.reading_s > 0, logs == []) == (echo_url is not None, echo_url is not None)


def test_no_two_processes_have_one_name() -> None:
    names = {owner_name() for _ in range(100)}
    assert len(names) == 100
    assert all(len(name) <= 80 for name in names)


def test_settings_from_which_no_job_can_be_made_are_told_at_start() -> None:
    template = jobspecs.template("waha-simulator")
    Loader(template, JOBS).check()
    wrong = msgspec.structs.replace(JOBS, storage_dsn=Secret("relative/folder"))
    with pytest.raises(JobspecError, match="WAHAFLEET_STORAGE_DSN"):
        Loader(template, wrong).check()


def test_a_job_is_made_once_for_one_row_and_anew_for_a_changed_one() -> None:
    async def main() -> None:
        store = MemoryStore(LoopClock())
        store.add_chip(U1, C1)
        snapshot = await store.load(U1)
        assert snapshot is not None
        row = snapshot.container
        loader = Loader(jobspecs.template("waha-simulator"), JOBS)
        wanted = loader.desired(UserSnapshot(row, ())).container
        assert wanted.wanted_hashes == loader.job(row).hashes
        assert loader.job(row) is loader.job(row)
        bigger = msgspec.structs.replace(row, resources=Resources(400, 300, 2048))
        changed = loader.desired(UserSnapshot(bigger, ())).container
        assert changed.wanted_hashes != wanted.wanted_hashes
        assert changed.wanted_variables_hash == wanted.wanted_variables_hash
        assert loader.job(row).hashes == wanted.wanted_hashes

    run_virtual(main())
