"""Settings: every problem is named at once, each with what to do, and no secret is ever shown."""

from __future__ import annotations

import pytest

from core.settings import Secret, SettingsError, load

KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
GOOD = {
    "WAHAFLEET_DATABASE_URL": "postgresql+asyncpg://wahafleet@127.0.0.1/wahafleet",
    "WAHAFLEET_SECRET_KEYS": KEY,
    "WAHAFLEET_STORAGE_DSN": "postgres://waha@127.0.0.1/postgres?sslmode=disable",
    "JWT_SECRET_KEY": "a-secret-of-thirty-two-characters!",
}


def problems(env: dict[str, str], part: str | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(env, part)
    return caught.value.problems


def test_defaults_fill_what_is_not_set() -> None:
    settings = load(GOOD)
    assert settings.loop.egress is None
    assert settings.api.create_wait_s == 4
    assert settings.job.jobspec == "waha-plus"
    assert settings.cache.redis_url is None


def test_every_problem_is_listed_at_once() -> None:
    found = problems(
        {
            "WAHAFLEET_CREATE_WAIT_S": "31",
            "WAHAFLEET_API_STATUS_CASE": "title",
            "WAHAFLEET_EGRESS": "vpn",
            "NOMAD_ADDR": "nomad:4646",
            "WAHAFLEET_COLOUR": "blue",
        }
    )
    named = {problem.split(":")[0].split(" ")[0] for problem in found}
    assert named == {
        "WAHAFLEET_DATABASE_URL",
        "WAHAFLEET_SECRET_KEYS",
        "JWT_SECRET_KEY",
        "WAHAFLEET_CREATE_WAIT_S",
        "WAHAFLEET_API_STATUS_CASE",
        "WAHAFLEET_EGRESS",
        "NOMAD_ADDR",
        "WAHAFLEET_COLOUR",
        "WAHAFLEET_STORAGE_DSN",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WAHAFLEET_DATABASE_URL", "mysql://root:hunter2-hunter2@db/x"),
        ("WAHAFLEET_SECRET_KEYS", "hunter2-hunter2"),
        ("JWT_SECRET_KEY", "hunter2-hunter2"),
        ("WAHAFLEET_REDIS_URL", "hunter2-hunter2"),
        ("WAHAFLEET_REDIS_URL", "http://:hunter2-hunter2@cache:6379/0"),
        ("WAHAFLEET_REDIS_URL", "redis://:hunter2-hunter2@cache:port/0"),
    ],
)
def test_a_wrong_secret_is_not_repeated(name: str, value: str) -> None:
    found = problems({**GOOD, name: value})
    assert len(found) == 1
    assert found[0].startswith(name)
    assert "hunter2" not in found[0]


def test_each_part_is_asked_for_its_own_secrets_only() -> None:
    without_jwt = {name: value for name, value in GOOD.items() if name != "JWT_SECRET_KEY"}
    load(without_jwt, "daemon")
    assert len(problems(without_jwt, "api")) == 1
    without_storage = {name: value for name, value in GOOD.items() if name != "WAHAFLEET_STORAGE_DSN"}
    load(without_storage, "api")
    assert len(problems(without_storage, "daemon")) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"WAHAFLEET_LEASE_HEARTBEAT_S": "30"},
        {"WAHAFLEET_PASS_DEADLINE_S": "60"},
        {"WAHAFLEET_CORS_ORIGINS": "https://whago.example,*"},
        {"WAHAFLEET_JOBSPEC": "waha-simulator"},
    ],
)
def test_settings_that_contradict_each_other(wrong: dict[str, str]) -> None:
    assert len(problems({**GOOD, **wrong})) == 1


def test_a_secret_never_shows_itself() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {load({**GOOD, 'NOMAD_TOKEN': 'hunter2'})!r}"
    assert secret.reveal() == "hunter2"


def test_further_storage_servers_stand_beside_the_first() -> None:
    settings = load({**GOOD, "WAHAFLEET_STORAGES": "old=postgres://waha:secret@db/postgres sim=/srv/waha"})
    assert list(settings.job.storages()) == ["main", "old", "sim"]
    assert settings.job.storages()["old"].reveal() == "postgres://waha:secret@db/postgres"
    assert "secret@" not in repr(settings)


@pytest.mark.parametrize("text", ["old", "=x", "old=", "old=a old=b", "main=postgres://waha:secret@db/x"])
def test_storage_servers_that_cannot_be_told_apart_are_refused(text: str) -> None:
    (problem,) = problems({**GOOD, "WAHAFLEET_STORAGES": text})
    assert problem.startswith("WAHAFLEET_STORAGES: its value does not fit")
    assert "secret@" not in problem


@pytest.mark.parametrize("name", ["STARTS_PER_S", "STARTS_PER_S_HOST", "STARTS_PER_S_PROVIDER"])
def test_a_pace_that_would_start_nothing_is_refused_and_one_alone_may_be_slowed(name: str) -> None:
    (problem,) = problems({**GOOD, f"WAHAFLEET_{name}": "0"})
    assert problem.startswith(f"WAHAFLEET_{name}")
    load({**GOOD, f"WAHAFLEET_{name}": "0.1"})


@pytest.mark.parametrize("name", ["START_BURST", "START_BURST_HOST", "START_BURST_PROVIDER"])
def test_a_bucket_holds_a_token_at_least(name: str) -> None:
    (problem,) = problems({**GOOD, f"WAHAFLEET_{name}": "0.5"})
    assert problem.startswith(f"WAHAFLEET_{name}")
    load({**GOOD, f"WAHAFLEET_{name}": "1"})


GUARD = {"WAHAFLEET_GUARD_NODE_ID": "node-1", "WAHAFLEET_GUARD_KEY": "0f" * 32}


def test_a_guard_needs_its_node_and_that_nodes_key_and_nothing_of_the_others() -> None:
    guard = load(GUARD, "egress").guard
    assert (guard.ttl_s, guard.renew_s, guard.margin_s, guard.tunnels, guard.direct) == (
        90,
        10,
        20,
        2000,
        False,
    )
    assert guard.destinations == ("whatsapp.com", "whatsapp.net")
    assert guard.ports == (443, 80, 5222)
    assert "0f0f" not in repr(guard)
    assert [problem.split(" ")[0] for problem in problems({}, "egress")] == list(GUARD)
    load(GOOD, "daemon")  # which needs neither


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEY", "0f0f"),
        ("KEY", "xy" * 32),
        ("MARGIN_S", "18"),
        ("RENEW_S", "18"),
        ("PORTS", "443,0"),
        ("PORTS", "https"),
        ("PORTS", ","),
        ("DESTINATIONS", ","),
        ("STATUS_LISTEN", "0.0.0.0:3129"),
        ("LISTEN", "3128"),
        ("TUNNELS", "0"),
        ("DIRECT", "yes"),
    ],
)
def test_a_guard_that_could_not_work_or_would_not_be_safe_is_refused(name: str, value: str) -> None:
    found = problems({**GUARD, f"WAHAFLEET_GUARD_{name}": value}, "egress")
    assert found
    assert all("WAHAFLEET_GUARD_" in problem and "0f0f" not in problem for problem in found)


@pytest.mark.parametrize("part", ["api", "daemon", None])
def test_whoever_proves_guards_needs_the_secret_and_no_guard_has_it(part: str | None) -> None:
    secret = "hunter2-" * 4
    given = {**GOOD, "WAHAFLEET_GUARD_SECRET": secret}
    settings = load({**given, "WAHAFLEET_EGRESS": "guard"}, part)
    assert settings.guard.secret.reveal() == secret
    assert "hunter2" not in repr(settings)
    assert load({**GUARD, "WAHAFLEET_GUARD_SECRET": secret}, "egress").guard.secret.reveal() == ""
    load({**GOOD, "WAHAFLEET_EGRESS": "direct"}, part)
    (missing,) = problems({**GOOD, "WAHAFLEET_EGRESS": "guard"}, part)
    assert missing.startswith("WAHAFLEET_GUARD_SECRET is needed with WAHAFLEET_EGRESS=guard")
    (short,) = problems({**given, "WAHAFLEET_GUARD_SECRET": "hunter2"}, part)
    assert short.startswith("WAHAFLEET_GUARD_SECRET is too short")
    assert "hunter2" not in short


def test_a_guard_s_address_may_name_the_host_and_readings_may_be_off() -> None:
    loop = load(GOOD).loop
    assert (loop.guard_address, loop.exit_echo_url is not None) == ("172.30.0.1:3128", True)
    given = {"WAHAFLEET_GUARD_ADDRESS": "{host_ip}:4128", "WAHAFLEET_EXIT_ECHO_URL": "off"}
    loop = load({**GOOD, **given}).loop
    assert (loop.guard_address, loop.exit_echo_url) == ("{host_ip}:4128", None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GUARD_ADDRESS", "http://172.30.0.1:3128"),
        ("GUARD_ADDRESS", "172.30.0.1"),
        ("GUARD_ADDRESS", "172.30.0.1:0"),
        ("GUARD_ADDRESS", "{host}:3128"),
        ("GUARD_ADDRESS", "name:hunter2@172.30.0.1:3128"),
        ("EXIT_ECHO_URL", "no"),
        ("EXIT_ECHO_URL", "socks5://127.0.0.1:1"),
    ],
)
def test_a_way_out_that_could_not_work_is_refused(name: str, value: str) -> None:
    (problem,) = problems({**GOOD, f"WAHAFLEET_{name}": value})
    assert problem.startswith(f"WAHAFLEET_{name}")


@pytest.mark.parametrize(
    ("given", "network"),
    [
        ({}, "bridge"),
        ({"WAHAFLEET_EGRESS": "direct"}, "bridge"),
        ({"WAHAFLEET_EGRESS": "guard", "WAHAFLEET_GUARD_SECRET": "s" * 32}, "waha0"),
        ({"WAHAFLEET_DOCKER_NETWORK": "own"}, "own"),
    ],
)
def test_containers_behind_a_guard_join_the_network_behind_the_firewall(
    given: dict[str, str], network: str
) -> None:
    assert load({**GOOD, **given}, "daemon").job.docker_network == network
