"""From a stored container and the settings to its job."""

from __future__ import annotations

import msgspec
import pytest

from core import jobspecs
from core.crypto import hashed_api_key
from core.domain.desired import Resources
from core.domain.jobspec import JobspecError
from core.jobs import slots_for, wanted_job
from core.settings import Secret
from tests.unit.jobspec import samples


def test_slots_of_a_container() -> None:
    slots = slots_for(
        samples.row("enterprise"), samples.settings(), nomad_namespace="waha", stop_on_disconnect_s=60.5
    )
    assert slots.user_id == samples.USER
    assert slots.owner == "test@whago.com"
    assert slots.hook_url == f"http://api.internal:8000/api/v1/webhooks/waha/{samples.USER}"
    assert slots.console_link == f"https://console.example/?user={samples.USER}"
    assert slots.nomad_namespace == "waha"
    assert slots.stop_on_disconnect_s == 61  # never shorter than asked for
    assert slots.api_key_hash == hashed_api_key(samples.API_KEY)
    assert (slots.cpu_mhz, slots.memory_mb, slots.memory_max_mb) == (200, 300, 2048)
    assert (slots.simulator_command, slots.simulator_args, slots.simulator_env) == ("", (), ())


@pytest.mark.parametrize(("engine", "heap"), [("GOWS", 512), ("WEBJS", 512), ("WPP", 512), ("NOWEB", 768)])
def test_node_gets_a_share_of_the_hard_limit_that_leaves_room_for_the_engine(engine: str, heap: int) -> None:
    assert slots_for(samples.row(), samples.settings(engine=engine)).node_heap_mb == heap


def test_slots_of_a_simulator() -> None:
    slots = slots_for(
        samples.row(),
        samples.settings("waha-simulator"),
        simulator_env={"WAHA_SIM_OWNER_PIDFILE": "/run/owner.pid", "WAHA_SIM_CLOCK_SPEED": "10"},
    )
    assert slots.image == ""
    assert slots.simulator_command == "/usr/bin/python3"
    assert slots.simulator_env == (
        ("WAHA_SIM_CLOCK_SPEED", "10"),
        ("WAHA_SIM_OWNER_PIDFILE", "/run/owner.pid"),
    )
    env = wanted_job(
        jobspecs.template("waha-simulator"),
        samples.row(),
        samples.settings("waha-simulator"),
        simulator_env={"WAHA_SIM_CLOCK_SPEED": "10"},
    ).job["TaskGroups"][0]["Tasks"][0]["Env"]
    assert env["WAHA_SIM_CLOCK_SPEED"] == "10"
    assert env["WHATSAPP_API_PORT"] == "${NOMAD_PORT_http}"
    assert "WAHA_SIM_STORE_DIR" not in env


def test_simulator_settings_never_reach_a_real_container() -> None:
    settings = samples.settings(simulator_command="/bin/sh", simulator_args=("-c", "x"))
    slots = slots_for(samples.row(), settings, simulator_env={"WAHA_SIM_X": "1"})
    assert (slots.simulator_command, slots.simulator_args, slots.simulator_env) == ("", (), ())


def test_two_users_share_nothing_that_names_a_user() -> None:
    other = "11111111-2222-4333-8444-555555555555"
    jobs = [
        wanted_job(jobspecs.template("waha-plus"), row, samples.settings())
        for row in (
            samples.row(),
            samples.row(user_id=other, email="b@whago.com", namespace="uzzzzzzzzzzzzzzz"),
        )
    ]
    assert samples.USER not in str(jobs[1].job)
    assert samples.NAMESPACE not in str(jobs[1].job)
    assert jobs[0].hashes.spec != jobs[1].hashes.spec


def test_a_container_on_another_storage_server_gets_no_job_with_the_wrong_one() -> None:
    with pytest.raises(JobspecError, match="on storage 'second', which is not set up") as refused:
        wanted_job(jobspecs.template("waha-plus"), samples.row(storage_id="second"), samples.settings())
    assert samples.DSN not in str(refused.value)
    second = "postgres://waha:other@second/postgres?sslmode=disable"
    both = samples.settings(other_storages=(("second", Secret(second)),))
    items = wanted_job(jobspecs.template("waha-plus"), samples.row(storage_id="second"), both).variables
    assert items["storage_dsn"] == second


def test_a_plan_that_reserves_more_than_it_allows_is_refused() -> None:
    row = samples.row(resources=Resources(cpu_mhz=200, memory_mb=2048, memory_max_mb=1024))
    with pytest.raises(JobspecError, match="memory_mb <= memory_max_mb"):
        wanted_job(jobspecs.template("waha-plus"), row, samples.settings())


def test_a_container_joins_the_network_of_the_settings() -> None:
    settings = msgspec.structs.replace(samples.settings(), docker_network="waha0")
    assert slots_for(samples.row(), settings).docker_network == "waha0"
