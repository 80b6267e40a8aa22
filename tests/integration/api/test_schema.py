"""schemathesis on the running application: whatever the document allows or forbids, answers are as it says.

All of its checks and phases. `make soak` tries more examples. When a new route fails here, its document is
most likely too wide: give body fields a shape (api/shapes.py, `SHAPES` of the body), declare what it can
answer (`responses=errors(...)`), or name below why a valid request may be refused.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from api import access_log, look_ins, pairing
from tests.integration.api.conftest import OPERATOR_TOKEN, PASSWORD
from tests.integration.api.served import api_served
from tests.scale import FACTOR, examples

# Statuses that schemathesis accepts for valid data, and what a document cannot say: an alias or e-mail that
# is taken, an unknown plan, a plan's limit, check digits.
_ACCEPTED = ("2xx", "3xx", "401", "403", "404", "409", "429", "5xx")
REFUSED_THOUGH_VALID = {
    "register": ("400", "422"),
    "changeMe": ("422",),
    "createChip": ("400", "402"),
    # A cursor is ours; a key may be one of ours; a phone number is more than its signs.
    "listApiKeys": ("422",),
    "listChipEvents": ("422",),
    "listContainers": ("422",),
    "getFleetPlan": ("422",),
    "putAnnotation": ("422",),
    "deleteAnnotation": ("422",),
    "requestPairingCode": ("422",),
    "pauseFleet": ("422",),
    "resumeFleet": ("422",),
    # A template names gateways, and a login is measured with what the template puts around it.
    "createProvider": ("422",),
    "changeProvider": ("422",),
    "createSubUser": ("422",),
    "changeSubUser": ("422",),
    "dryRunProvider": ("422",),
    "listChipExits": ("422",),
    "getFleetProxyUsage": ("422",),
}
# No WAHA runs here, and a pairing code cannot be had without one.
AWAY = ("requestPairingCode",)
# How many examples of each route; the coverage phase of the tool tries every border of the document besides.
EXAMPLES = {"nobody": 2, "user": 5, "operator": 5}


class Served:
    """An application with one user who has a chip, and one provider."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        body = {
            "name": "Ana Souza",
            "email": "ana@empresa.com.br",
            "password": PASSWORD,
            "phone": "+5511999999999",
            "plan_slug": "enterprise",
        }
        session = httpx.post(f"{base_url}/api/v1/auth/register", json=body).raise_for_status().json()
        self.token: str = session["access_token"]
        self.user_id: str = session["user"]["id"]
        headers = {"Authorization": f"Bearer {self.token}", "Prefer": "respond-async"}
        httpx.post(f"{base_url}/api/v1/chips", json={"alias": "vendas"}, headers=headers).raise_for_status()
        operator = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
        provider = {"slug": "dataimpulse", "template": "dataimpulse"}
        httpx.post(f"{base_url}/api/v1/fleet/providers", json=provider, headers=operator).raise_for_status()


@pytest.fixture
def served(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    # Nobody samples containers here; waiting for it is tried elsewhere.
    monkeypatch.setattr(look_ins, "_FIRST_SAMPLE_S", 0.05)
    monkeypatch.setattr(pairing, "_SESSION_S", 0.05)
    # A line for each of some thousand requests would bury what schemathesis says.
    quiet = structlog.wrap_logger(structlog.PrintLogger(), [_drop])
    monkeypatch.setattr(access_log, "direct", lambda: quiet)
    hasty = {"WAHAFLEET_CREATE_WAIT_S": "0", "WAHAFLEET_STREAM_LIFE_S": "1"}
    with api_served(database_url, redis_url, **hasty) as base_url:
        yield Served(base_url)


def _drop(*_: Any) -> Any:
    raise structlog.DropEvent


def configuration(served: Served, caller: str) -> str:
    """schemathesis' file: who calls, which ids exist, and what may be refused."""
    lines = [
        "warnings = false",
        "request-timeout = 20",
        "max-stream-events = 2",
        "[generation]",
        "deterministic = true",
        # Made-up cookies beside a valid bearer token must be ignored; the tool takes them for a hole.
        "with-security-parameters = false",
        "[dictionaries.users]",
        f"values = {json.dumps([served.user_id, 'ana@empresa.com.br'])}",
        "[dictionaries.providers]",
        'values = ["dataimpulse"]',
        "[parameters]",
        '"path.user_id" = { dictionary = "users", probability = 0.7 }',
        '"path.provider" = { dictionary = "providers", probability = 0.7 }',
    ]
    if caller == "user":
        lines += ["[auth.openapi.bearer]", f"bearer = {json.dumps(served.token)}"]
    if caller == "operator":
        lines += ["[auth.openapi.operator]", f"bearer = {json.dumps(OPERATOR_TOKEN)}"]
    # A stream lasts until its reader leaves; streams are tried elsewhere.
    lines += ["[[operations]]", 'include-operation-id = "getContainerLogs"', "parameters.follow = false"]
    for operation, more in REFUSED_THOUGH_VALID.items():
        lines += [
            "[[operations]]",
            f"include-operation-id = {json.dumps(operation)}",
            f"checks.positive_data_acceptance.expected-statuses = {json.dumps([*_ACCEPTED, *more])}",
        ]
        if operation in AWAY:
            lines += ['checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503"]']
    return "\n".join(lines) + "\n"


@pytest.mark.timeout(300 * FACTOR)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("caller", ["nobody", "user", "operator"])
def test_schemathesis_finds_nothing(served: Served, caller: str, tmp_path: Path) -> None:
    file = tmp_path / "schemathesis.toml"
    file.write_text(configuration(served, caller))
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(file), "run"]
    command += [f"{served.base_url}/schema", "--checks", "all", "--continue-on-failure", "--no-color"]
    command += ["--max-examples", str(examples(EXAMPLES[caller]))]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=290 * FACTOR)
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-2_000:]
    assert "Tested: " in ran.stdout
