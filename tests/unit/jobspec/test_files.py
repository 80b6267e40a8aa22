"""The compiled files: they belong to their HCL, are found once installed, and are made only from what parses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from cli.jobspec import jobspec
from core import jobspecs
from core.clients.jobspec_compiler import JobspecCompiler
from core.domain.jobspec_template import JobspecError
from core.errors import Rejected, Unavailable

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of jobspecs/ that may be changed."""
    folder = tmp_path / "jobspecs"
    shutil.copytree(jobspecs.folder(), folder)
    monkeypatch.setattr(jobspecs, "folder", lambda: folder)
    jobspecs.template.cache_clear()
    yield folder
    jobspecs.template.cache_clear()


def test_compiled_jobspecs_belong_to_their_hcl() -> None:
    result = CliRunner().invoke(jobspec, ["check"])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        f"{stem}: compiled with Nomad {jobspecs.compiled_with(stem)}, up to date" for stem in jobspecs.STEMS
    ]


def test_no_hcl_is_left_out_of_the_list() -> None:
    found = {path.name.removesuffix(".nomad.hcl") for path in (ROOT / "jobspecs").glob("*.nomad.hcl")}
    assert found == set(jobspecs.STEMS)


@pytest.mark.parametrize("suffix", ["hcl", "json"])
def test_check_fails_with_one_sentence_when_a_file_was_changed(copied: Path, suffix: str) -> None:
    changed = copied / f"waha-plus.nomad.{suffix}"
    changed.write_text(changed.read_text("utf-8") + "\n", "utf-8")
    result = CliRunner().invoke(jobspec, ["check"])
    assert result.exit_code == 1
    assert result.output == (
        f"Error: jobspecs/waha-plus.nomad.{suffix} was changed after the last compile: "
        "run `wahafleet jobspec compile` with a Nomad agent at hand and commit what it writes.\n"
    )
    with pytest.raises(JobspecError, match="was changed after the last compile"):
        jobspecs.template("waha-plus")


@pytest.mark.parametrize("suffix", ["hcl", "json", "sum"])
def test_check_fails_with_one_sentence_when_a_file_is_missing(copied: Path, suffix: str) -> None:
    (copied / f"waha-simulator.nomad.{suffix}").unlink()
    result = CliRunner().invoke(jobspec, ["check"])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: jobspecs/waha-simulator.nomad.{suffix} is missing: run ")


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Answers of a Nomad agent for the next calls; what is put in is taken out front first."""
    answers: list[dict[str, Any]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        assert request.headers["X-Nomad-Token"] == "t0ken"
        return httpx.Response(**answers.pop(0))

    client = httpx.Client

    def mocked(**options: Any) -> httpx.Client:
        options.pop("verify")
        return client(**options, transport=httpx.MockTransport(handle))

    monkeypatch.setattr(httpx, "Client", mocked)
    monkeypatch.setenv("NOMAD_TOKEN", "t0ken")
    return answers


VERSION = {"status_code": 200, "json": {"config": {"Version": {"Version": "1.10.5"}}}}


def test_a_parse_error_leaves_the_folder_as_it_was(copied: Path, agent: list[dict[str, Any]]) -> None:
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    agent += [VERSION, {"status_code": 400, "text": "<nil>: input.hcl:7,1-4: Unsupported block type"}]
    result = CliRunner().invoke(jobspec, ["compile"])
    assert result.exit_code == 1
    assert result.output == (
        "Error: Nothing was compiled. nomad: /v1/jobs/parse answered 400: "
        "<nil>: input.hcl:7,1-4: Unsupported block type\n"
    )
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_compile_writes_all_or_nothing(copied: Path, agent: list[dict[str, Any]]) -> None:
    for stem in jobspecs.STEMS:
        (copied / f"{stem}.nomad.hcl").write_text('variable "a" {\n  type = string\n}\n', "utf-8")
    agent += [
        VERSION,
        {"status_code": 200, "json": {"ID": "x_[[a]]", "Empty": ""}},
        {"status_code": 200, "json": {}},
    ]
    result = CliRunner().invoke(jobspec, ["compile"])
    assert result.exit_code == 1
    assert "waha-simulator.nomad.hcl: variable a is declared and used nowhere" in result.output
    assert jobspecs.disagreement("waha-plus") is not None

    agent += [VERSION, *[{"status_code": 200, "json": {"ID": "x_[[a]]", "Empty": ""}}] * 2]
    result = CliRunner().invoke(jobspec, ["compile"])
    assert result.exit_code == 0, result.output
    assert jobspecs.template("waha-plus").job == {"ID": "x_[[a]]"}
    assert jobspecs.compiled_with("waha-plus") == "1.10.5"
    assert CliRunner().invoke(jobspec, ["check"]).exit_code == 0


def test_an_agent_that_is_none_is_told_in_one_sentence(agent: list[dict[str, Any]]) -> None:
    compiler = JobspecCompiler("http://127.0.0.1:4646", token="t0ken")
    agent += [{"status_code": 200, "text": "<html>"}, {"status_code": 200, "json": []}]
    with pytest.raises(Rejected, match="did not answer JSON"):
        compiler.nomad_version()
    with pytest.raises(Rejected, match="did not answer a JSON object"):
        compiler.nomad_version()


def test_no_agent_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    client = httpx.Client(base_url="http://127.0.0.1:4646", transport=httpx.MockTransport(refuse))
    monkeypatch.setattr(httpx, "Client", lambda **_: client)
    with (
        JobspecCompiler("http://127.0.0.1:4646") as compiler,
        pytest.raises(
            Unavailable, match=r"no answer from http://127\.0\.0\.1:4646 \(ConnectError\)"
        ) as refused,
    ):
        compiler.nomad_version()
    assert isinstance(refused.value.__cause__, httpx.ConnectError)


def test_jobspecs_are_found_in_an_installed_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in ("api", "cli", "core", "daemon", "jobspecs", "sandbox"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "dist").iterdir()
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    asked = "import json; from core import jobspecs; print(json.dumps([str(jobspecs.folder()), jobspecs.template('waha-plus').job['ID']]))"
    told = subprocess.run(
        [sys.executable, "-c", asked],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(told.stdout) == [
        str(installed / "wahafleet_data" / "jobspecs"),
        "waha_plus_user_[[user_id]]",
    ]


@pytest.mark.parametrize("stem", jobspecs.STEMS)
def test_waha_starts_no_session_by_itself(stem: str) -> None:
    """At a boot it would start all of them at once, past every bucket (WAHA docs, "Configuration")."""
    job = json.loads((jobspecs.folder() / f"{stem}.nomad.json").read_text("utf-8"))
    found = list(_environments(job))
    assert found
    for environment in found:
        assert environment["WAHA_WORKER_RESTART_SESSIONS"] == "False"
        assert environment["WHATSAPP_RESTART_ALL_SESSIONS"] == "False"


def _environments(value: Any) -> Iterator[dict[str, str]]:
    if isinstance(value, dict):
        if "WHATSAPP_RESTART_ALL_SESSIONS" in value or "WAHA_WORKER_RESTART_SESSIONS" in value:
            yield value
        for one in value.values():
            yield from _environments(one)
    elif isinstance(value, list):
        for one in value:
            yield from _environments(one)
