"""The rendered jobs of the three plans, word for word: no change of a job goes unseen in a review.

After a wanted change: WAHAFLEET_TEST_UPDATE_GOLDEN=1 pytest tests/unit/jobspec, then read the diff.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from core import jobspecs
from core.jobs import wanted_job
from tests.unit.jobspec import samples

GOLDEN = Path(__file__).parent / "golden"
UPDATE = os.environ.get("WAHAFLEET_TEST_UPDATE_GOLDEN") == "1"
CASES = [(stem, plan) for stem in jobspecs.STEMS for plan in samples.PLANS]


@pytest.mark.parametrize(("stem", "plan"), CASES)
def test_rendered_job_is_the_golden_one(stem: str, plan: str) -> None:
    wanted = wanted_job(
        jobspecs.template(stem),
        samples.row(plan),
        samples.settings(stem),
        simulator_env={"WAHA_SIM_CLOCK_SPEED": "10"},
    )
    text = json.dumps({"Job": wanted.job}, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    file = GOLDEN / f"{stem}-{plan}.json"
    if UPDATE:
        file.write_text(text, "utf-8")
    assert file.read_text("utf-8") == text, f"{file.name} differs; see the head of this file"


def test_every_golden_file_belongs_to_a_case() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {f"{stem}-{plan}.json" for stem, plan in CASES}


@pytest.mark.parametrize("stem", jobspecs.STEMS)
def test_what_every_job_must_say(stem: str) -> None:
    job = wanted_job(jobspecs.template(stem), samples.row("enterprise"), samples.settings(stem)).job
    group = job["TaskGroups"][0]
    task = group["Tasks"][0]
    service = group["Services"][0]
    port = group["Networks"][0]["DynamicPorts"][0]

    assert job["ID"] == job["Name"] == "waha_plus_user_" + samples.USER
    assert (group["Name"], task["Name"], group["Count"]) == ("waha_plus", "waha_plus", 1)
    assert "Meta" not in job
    assert "Meta" not in group
    assert job["Update"] == {"MaxParallel": 0}
    assert group["Disconnect"] == {"StopOnClientAfter": 60_000_000_000}
    assert group["ReschedulePolicy"] == {
        "Delay": 15_000_000_000,
        "DelayFunction": "exponential",
        "MaxDelay": 300_000_000_000,
        "Unlimited": True,
    }
    assert task["KillTimeout"] == 45_000_000_000
    assert port["Label"] == "http"
    assert port["To"] == (3000 if stem == "waha-plus" else 0)
    assert (service["Name"], service["Provider"], service["PortLabel"]) == ("waha-plus", "consul", "http")
    assert set(service["Meta"]) == {"user", "allocation", "spec"}
    check = service["Checks"][0]
    assert (check["Path"], check["Interval"], check["Timeout"]) == ("/ping", 2_000_000_000, 1_000_000_000)
    assert "CheckRestart" not in check
    resources = task["Resources"]
    assert (resources["CPU"], resources["MemoryMB"], resources["MemoryMaxMB"]) == (200, 300, 2048)
    logs = task["LogConfig"]
    assert 2 * logs["MaxFiles"] * logs["MaxFileSizeMB"] < group["EphemeralDisk"]["SizeMB"]
    env = task["Env"]
    assert (
        env["WAHA_WORKER_ID"] == env["WAHA_NAMESPACE"] == env["WAHA_SESSION_NAMESPACE"] == samples.NAMESPACE
    )
    assert env["WAHA_WORKER_RESTART_SESSIONS"] == env["WHATSAPP_RESTART_ALL_SESSIONS"] == "False"


def test_old_docker_labels_are_kept() -> None:
    job = wanted_job(jobspecs.template("waha-plus"), samples.row(), samples.settings()).job
    assert job["TaskGroups"][0]["Tasks"][0]["Config"]["labels"] == [
        {"whago.service": "waha-plus", "whago.user_id": samples.USER, "whago.managed": "true"}
    ]


def test_kill_timeout_is_the_one_that_the_rules_reckon_with() -> None:
    from core.domain.policy import Policy

    for stem in jobspecs.STEMS:
        task = jobspecs.template(stem).job["TaskGroups"][0]["Tasks"][0]
        assert task["KillTimeout"] == Policy().kill_timeout_s * 1_000_000_000
