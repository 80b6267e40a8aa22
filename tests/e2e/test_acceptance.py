"""The five tests of the predecessor, against every pair of agents that this machine can run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.running import WAHAFLEET, Up, scratch

SCRIPT = Path(__file__).with_name("seed_tests.sh")


def five_tests(up: Up) -> str:
    done = subprocess.run(
        ["bash", str(SCRIPT)],
        env={**up.env, "BASE": up.url, "WAHAFLEET": WAHAFLEET, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.xdist_group("sandbox")
def test_all_five_hold_on_doubles(sandbox: Up) -> None:
    said = five_tests(sandbox)
    assert said.splitlines()[-1] == "all five hold"
    assert said.count("PASS") == 6


@pytest.mark.parametrize(("nomad", "consul"), [("double", "real"), ("real", "real")])
def test_all_five_hold_on_real_agents(nomad: str, consul: str) -> None:
    for name, kind in (("nomad", nomad), ("consul", consul)):
        if kind == "real" and shutil.which(name) is None:
            pytest.skip(f"there is no {name} on PATH")
    with scratch() as folder:
        up = Up(folder, "--nomad", nomad, "--consul", consul)
        try:
            up.wait_ready(90)
            assert five_tests(up).splitlines()[-1] == "all five hold"
        finally:
            up.end()
        assert up.processes() == {}
