"""What is refused before it reaches Nomad, and that no refusal repeats a secret."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from core import jobspecs
from core.crypto import hashed_api_key, new_api_key
from core.domain.jobspec import JobspecError, build, shown_owner, variables, with_sslmode
from core.domain.jobspec_rules import OLDEST, WAHA_VARIABLES, image_problems, looks_secret, waha_version
from tests.unit.jobspec import samples

PLUS = jobspecs.template("waha-plus").job
SIMULATOR = jobspecs.template("waha-simulator").job


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"user_id": samples.USER.upper()}, "user_id is no UUID in lower case"),
        ({"user_id": "42"}, "user_id is no UUID"),
        ({"namespace": "gows"}, "namespace is no storage namespace"),
        ({"api_key_hash": samples.API_KEY}, "never the key itself"),
        ({"engine": "VENOM"}, "engine must be one of GOWS"),
        ({"image": ""}, "slot image is empty"),
        ({"image": "devlikeapro/waha"}, "is not pinned"),
        ({"image": "devlikeapro/waha:latest"}, "is not pinned"),
        ({"image": "devlikeapro/waha:gows-2025.12.3"}, "too old: storage namespaces came with 2026.3.1"),
        ({"image": "devlikeapro/waha@sha256:12"}, "no sha256 digest"),
        ({"datacenters": ()}, "slot datacenters is empty"),
        ({"node_pool": ""}, "slot node_pool is empty"),
        ({"hook_url": "ftp://x/y"}, "hook_url must be an address"),
        ({"hook_url": "http://user:pass@api.internal/x"}, "hook_url must be an address"),
        ({"console_link": "javascript:alert(1)"}, "console_link must be an address"),
        ({"cpu_mhz": 0}, "needs cpu_mhz above 0"),
        ({"memory_mb": 2000}, "memory_mb <= memory_max_mb"),
        ({"node_heap_mb": 1024}, "node_heap_mb must lie below"),
        ({"stop_on_disconnect_s": 20}, "below 45 makes a healthy host stop"),
        ({"owner": "a\nb"}, "slot owner holds a control character"),
        ({"owner": "${env.SECRET}"}, "slot owner holds"),
        ({"docker_network": "{{ key }}"}, "slot docker_network holds"),
        ({"simulator_env": (("PATH", "/x"),)}, "WAHA_SIM_\\* alone, not PATH"),
    ],
)
def test_malformed_slots_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(JobspecError, match=sentence):
        build(PLUS, samples.slots(**changes))


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(JobspecError) as refused:
        build(PLUS, samples.slots(engine="X", namespace="y", cpu_mhz=0))
    assert len(refused.value.problems) == 3


def test_simulator_needs_its_command_and_no_image() -> None:
    assert build(SIMULATOR, samples.slots(image=""))
    with pytest.raises(JobspecError, match="slot simulator_command is empty"):
        build(SIMULATOR, samples.slots(simulator_command=""))


def _with_env(template: dict[str, Any], **env: str) -> dict[str, Any]:
    changed = copy.deepcopy(template)
    changed["TaskGroups"][0]["Tasks"][0]["Env"].update(env)
    return changed


@pytest.mark.parametrize(
    "name", ["WAHA_RESTART_ALL_SESSIONS", "WAHA_SIM_CLOCK_SPEED", "WHATSAPP_HOOK_URLS", "PATH"]
)
def test_an_invented_variable_is_refused(name: str) -> None:
    with pytest.raises(JobspecError, match=f"{name} is no environment variable that WAHA is known to read"):
        build(_with_env(PLUS, **{name: "x"}), samples.slots())


def test_an_invented_variable_in_the_secret_template_is_refused() -> None:
    changed = copy.deepcopy(PLUS)
    changed["TaskGroups"][0]["Tasks"][0]["Templates"][0]["EmbeddedTmpl"] += "WAHA_HOOK_KEY={{ .hook_key }}\n"
    with pytest.raises(JobspecError, match="WAHA_HOOK_KEY is no environment variable"):
        build(changed, samples.slots())


def test_a_variable_of_a_later_waha_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from core.domain import jobspec_rules

    later = {**WAHA_VARIABLES, "WAHA_PUBLIC_URL": (2027, 1, 1)}
    monkeypatch.setattr(jobspec_rules, "WAHA_VARIABLES", later)
    template = _with_env(PLUS, WAHA_PUBLIC_URL="http://x")
    with pytest.raises(JobspecError, match=r"came with WAHA 2027\.1\.1, the image is 2026\.7\.1"):
        build(template, samples.slots())
    assert build(template, samples.slots(image="devlikeapro/waha:gows-2027.1.1"))
    assert build(template, samples.slots(image="registry.example/waha:of-our-own"))


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("devlikeapro/waha:gows-2026.7.1", (2026, 7, 1)),
        ("registry.example:5000/waha:2026.10.12", (2026, 10, 12)),
        ("devlikeapro/waha:gows-2026.7.1@sha256:" + "a" * 64, (2026, 7, 1)),
        ("devlikeapro/waha@sha256:" + "a" * 64, None),
        ("registry.example:5000/waha", None),
        ("devlikeapro/waha:gows", None),
    ],
)
def test_release_is_read_from_the_tag_alone(image: str, version: tuple[int, int, int] | None) -> None:
    assert waha_version(image) == version


def test_oldest_release_is_accepted() -> None:
    assert image_problems("devlikeapro/waha:gows-" + ".".join(map(str, OLDEST))) == []


MAKERS: tuple[Callable[[], str], ...] = (
    new_api_key,
    lambda: secrets.token_hex(16),
    lambda: secrets.token_hex(48).upper(),
    lambda: Fernet.generate_key().decode(),
    lambda: secrets.token_urlsafe(48),
    lambda: f"postgres://waha:{secrets.token_hex(4)}@db:5432/postgres",
    lambda: "eyJhbGciOiJIUzI1NiJ9." + secrets.token_urlsafe(40) + "." + secrets.token_urlsafe(32),
)
RANDOM_SECRETS = st.sampled_from(MAKERS).flatmap(st.builds)


@given(
    RANDOM_SECRETS, st.sampled_from(("owner", "docker_network", "node_pool", "hook_url", "simulator_args"))
)
def test_a_secret_in_any_slot_is_refused_and_not_repeated(secret: str, name: str) -> None:
    value: Any = {"hook_url": f"http://api/{secret}", "simulator_args": ("--key", secret)}.get(name, secret)
    template = SIMULATOR if name == "simulator_args" else PLUS
    with pytest.raises(JobspecError) as refused:
        build(template, samples.slots(**{name: value}))
    assert secret not in str(refused.value)


@given(RANDOM_SECRETS)
def test_a_secret_that_a_jobspec_holds_is_refused_wherever_it_stands(secret: str) -> None:
    for changed in (
        _with_env(PLUS, TZ=secret),
        {**PLUS, "Constraints": [{"LTarget": secret}]},
        {**PLUS, "UI": {secret: "x"}},
    ):
        with pytest.raises(JobspecError, match="looks like a secret") as refused:
            build(changed, samples.slots())
        assert secret not in str(refused.value)


@pytest.mark.parametrize("name", ["WHATSAPP_HOOK_HMAC_KEY", "WHATSAPP_SESSIONS_POSTGRESQL_URL"])
def test_a_secret_by_name_is_refused_whatever_its_value(name: str) -> None:
    with pytest.raises(JobspecError, match=f"{name} must not stand in the job in plain text"):
        build(_with_env(PLUS, **{name: "short"}), samples.slots())


@pytest.mark.parametrize(
    "text",
    [
        hashed_api_key("x"),
        "devlikeapro/waha@sha256:" + "0a" * 32,
        "waha_plus_user_" + samples.USER,
        "https://console.example/?user=" + samples.USER,
        "--max-old-space-size=512",
        '{{ with nomadVar "nomad/jobs/waha_plus_user_' + samples.USER + '" }}',
    ],
)
def test_what_is_public_passes(text: str) -> None:
    assert not looks_secret(text)


@given(api_key=st.builds(new_api_key), hook_key=st.builds(new_api_key), password=st.builds(new_api_key))
def test_no_secret_of_a_user_is_in_the_rendered_job(api_key: str, hook_key: str, password: str) -> None:
    from core.jobs import wanted_job
    from core.settings import Secret
    from core.store.interface import ContainerSecrets

    wanted = wanted_job(
        jobspecs.template("waha-plus"),
        samples.row(secrets=ContainerSecrets(api_key=api_key, hook_key=hook_key)),
        samples.settings(storage_dsn=Secret(f"postgres://waha:{password}@db/postgres")),
    )
    shown = f"{wanted.job} {wanted.submission} {wanted.hashes} {wanted.variables_hash} {wanted!r}"
    for secret in (api_key, hook_key, password):
        assert secret not in shown
    assert wanted.variables["hook_key"] == hook_key
    assert password in wanted.variables["storage_dsn"]


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgres://u:p@h/db", "postgres://u:p@h/db?sslmode=disable"),
        (
            "postgresql://u:p@h:5433/db?application_name=waha",
            "postgresql://u:p@h:5433/db?application_name=waha&sslmode=disable",
        ),
        ("postgres://u:p@h/db?sslmode=require", "postgres://u:p@h/db?sslmode=require"),
        ("postgres://u:p%40%2F@h/db", "postgres://u:p%40%2F@h/db?sslmode=disable"),
    ],
)
def test_sslmode_is_always_explicit(dsn: str, expected: str) -> None:
    assert with_sslmode(dsn) == expected
    assert variables(PLUS, hook_key="k", storage_dsn=dsn)["storage_dsn"] == expected


@pytest.mark.parametrize(
    ("template", "dsn"),
    [
        (PLUS, ""),
        (PLUS, "/srv/store"),
        (PLUS, "mysql://u:sekrit@h/db"),
        (PLUS, "postgres:///db?password=sekrit"),
        (PLUS, "postgres://u:sekrit@h/db\nX=1"),
        (PLUS, "postgres://u:sekrit@[h/db"),
        (SIMULATOR, ""),
        (SIMULATOR, "relative/sekrit"),
    ],
)
def test_storage_that_cannot_be_right_is_refused_without_repeating_it(
    template: dict[str, Any], dsn: str
) -> None:
    with pytest.raises(JobspecError, match="set WAHAFLEET_STORAGE_DSN") as refused:
        variables(template, hook_key="k", storage_dsn=dsn)
    assert "sekrit" not in str(refused.value)


def test_simulator_store_is_a_folder() -> None:
    items = variables(SIMULATOR, hook_key="k", storage_dsn="/srv/store")
    assert items == {"hook_key": "k", "storage_dsn": "/srv/store"}


def test_a_missing_hook_key_is_refused() -> None:
    with pytest.raises(JobspecError, match="webhook key is empty"):
        variables(PLUS, hook_key="", storage_dsn=samples.DSN)


@given(st.emails() | st.text() | st.from_regex(r"[a-fA-F0-9]{32,64}@[a-z]{1,40}\.com", fullmatch=True))
def test_an_owner_of_any_kind_can_be_shown(email: str) -> None:
    shown = shown_owner(email)
    assert "`" not in shown
    assert len(shown) <= 200
    if shown:
        assert build(PLUS, samples.slots(owner=shown))


@given(RANDOM_SECRETS)
def test_an_owner_whose_address_looks_like_a_secret_can_be_shown(random: str) -> None:
    shown = shown_owner(f"{random}@relay.example")
    assert shown.endswith("@relay.example")
    assert build(PLUS, samples.slots(owner=shown))
