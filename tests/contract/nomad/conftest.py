"""The Nomad under test: the double always, a real agent when `nomad` is on PATH."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.agents.nomad_agent import NomadAgent
from sandbox.agents.nomad_config import Host
from tests.contract.nomad.cluster import Cluster
from tests.contract.nomad.evidence import EvidenceWriter, case_of
from tests.contract.nomad.recorder import ConsulRecorder
from tests.real_agents import require_programs

PORTS = 6
DOUBLE_RELEASE = os.environ.get("NOMAD_DOUBLE_RELEASE", "1.10.5")
"""The release that the double imitates in this run."""


@pytest.fixture(scope="session", params=["double", "real"])
def _nomad(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str, str, ConsulRecorder]]:
    folder = tmp_path_factory.mktemp(f"nomad-{request.param}")
    recorder = ConsulRecorder()
    try:
        if request.param == "real":
            require_programs("nomad")
            first = first_port(0)
            host = Host(ports=(first, first + PORTS - 1), consul=recorder.address)
            with NomadAgent.start(folder, host=host) as agent:
                yield agent.url, "real", agent.version, recorder
        else:
            with _Double(folder, recorder) as url:
                yield url, "double", DOUBLE_RELEASE, recorder
    finally:
        recorder.close()


@pytest.fixture
def cluster(
    _nomad: tuple[str, str, str, ConsulRecorder], record_property: Callable[[str, object], None]
) -> Iterator[Cluster]:
    url, kind, version, recorder = _nomad
    if kind == "real":
        record_property("nomad_version", version)
    cluster = Cluster(url, kind, version, recorder)
    yield cluster
    cluster.clean()
    cluster.http.close()


class _Double:
    """The double as a process of its own, as the sandbox runs it."""

    def __init__(self, folder: Path, recorder: ConsulRecorder) -> None:
        first = first_port(PORTS)
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "sandbox.nomad_double", "--port", "0", "--data", str(folder)),
                *("--nomad-version", DOUBLE_RELEASE),
                *("--consul-url", f"http://{recorder.address}"),
                *("--min-port", str(first), "--max-port", str(first + PORTS - 1)),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        address: str = json.loads(line)["address"]
        return address

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        assert self._process.wait(20) == 0
        assert self._process.stdout is not None
        self._process.stdout.close()


def first_port(offset: int) -> int:
    """A range below the system's ephemeral ports that no other test process uses."""
    return 20_000 + os.getpid() % 900 * 2 * PORTS + offset


_writer = EvidenceWriter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    version = dict(report.user_properties).get("nomad_version")
    if version is not None:
        _writer.note(str(version), case_of(report.nodeid), report)


def pytest_sessionfinish() -> None:
    _writer.write()


@pytest.fixture(scope="session")
def snapshot_texts() -> dict[str, str]:
    """Validation texts as a real agent gave them, by the change that caused them."""
    texts: dict[str, str] = json.loads((Path(__file__).parent / "validation_texts.json").read_text())
    return texts
