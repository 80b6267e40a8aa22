"""The environment of a container."""

from __future__ import annotations

import hashlib

import pytest

from sandbox.waha.settings import InvalidSettings, SimulatorSettings


def settings(**env: str) -> SimulatorSettings:
    return SimulatorSettings({"WAHA_SIM_STORE_DIR": "/tmp/x", "WHATSAPP_DEFAULT_ENGINE": "GOWS", **env})


def digest(key: str) -> str:
    return hashlib.sha512(key.encode()).hexdigest()


@pytest.mark.parametrize("value", ["my-plain-key", "sha512:" + digest("my-plain-key")])
def test_the_key_is_taken_plain_or_hashed(value: str) -> None:
    taken = settings(WAHA_API_KEY=value)
    assert taken.key_digest == digest("my-plain-key")
    assert not taken.key_is_random


def test_the_alias_wins() -> None:
    assert settings(WAHA_API_KEY="one-key", WHATSAPP_API_KEY="two-key").key_digest == digest("two-key")


@pytest.mark.parametrize(
    "value", ["", "123", "321", "waha", "admin", "0" * 32, "1" * 32, "sha512:", "sha512:" + digest("admin")]
)
def test_weak_keys_are_replaced_by_a_random_one_at_every_boot(value: str) -> None:
    first, second = settings(WAHA_API_KEY=value), settings(WAHA_API_KEY=value)
    assert first.key_is_random
    assert first.key_digest != second.key_digest
    assert first.key_digest != digest(value)


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(InvalidSettings) as caught:
        SimulatorSettings(
            {
                "WHATSAPP_DEFAULT_ENGINE": "VENOM",
                "WHATSAPP_API_PORT": "many",
                "WAHA_NAMESPACE": "../x",
                "WAHA_WORKER_RESTART_SESSIONS": "perhaps",
                "WAHA_SIM_CLOCK_SPEED": "0",
            }
        )
    for name in (
        "WHATSAPP_DEFAULT_ENGINE",
        "WHATSAPP_API_PORT",
        "WAHA_NAMESPACE",
        "WAHA_WORKER_RESTART_SESSIONS",
        "WAHA_SIM_CLOCK_SPEED",
        "WAHA_SIM_STORE_DIR",
    ):
        assert name in str(caught.value)


def test_defaults_are_wahas() -> None:
    plain = SimulatorSettings({"WAHA_SIM_STORE_DIR": "/tmp/x"})
    assert (plain.engine, plain.port, plain.namespace, plain.restore_sessions) == (
        "WEBJS",
        3000,
        "webjs",
        True,
    )
    assert plain.hooks == ()


def test_port_wins_over_whatsapp_api_port() -> None:
    assert settings(PORT="3101", WHATSAPP_API_PORT="3102").port == 3101


def test_the_public_environment_masks_secrets() -> None:
    shown = settings(
        WAHA_API_KEY="my-plain-key", WHATSAPP_HOOK_HMAC_KEY="hook-key", HOME="/home/x"
    ).public_environment()
    assert shown["WAHA_API_KEY"] == shown["WHATSAPP_HOOK_HMAC_KEY"] == "***"
    assert "HOME" not in shown


def test_a_hook_takes_its_headers_and_retries() -> None:
    (hook,) = settings(
        WHATSAPP_HOOK_URL="http://x/",
        WHATSAPP_HOOK_EVENTS="session.status, message",
        WHATSAPP_HOOK_HMAC_KEY="k",
        WHATSAPP_HOOK_CUSTOM_HEADERS="X-A:1;X-B: 2",
        WHATSAPP_HOOK_RETRIES_POLICY="exponential",
        WHATSAPP_HOOK_RETRIES_DELAY_SECONDS="0.5",
        WHATSAPP_HOOK_RETRIES_ATTEMPTS="4",
    ).hooks
    assert hook.events == {"session.status", "message"}
    assert hook.headers == (("X-A", "1"), ("X-B", "2"))
    assert (hook.retries.policy, hook.retries.delay, hook.retries.attempts) == ("exponential", 0.5, 4)
