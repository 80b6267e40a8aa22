"""nomad/ holds configuration and no Python, and the library of that name stays reachable."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import nomad
import pytest

from core.domain.policy import Policy
from tests.real_agents import require_programs

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "nomad"
SERVER, CLIENT, SINGLE = (FOLDER / f"{name}.hcl" for name in ("server", "client", "single-host"))


def test_no_python_file_ever() -> None:
    assert [path for path in FOLDER.rglob("*") if path.suffix in (".py", ".pyi", ".pyc")] == []


def test_import_nomad_is_the_library() -> None:
    assert hasattr(nomad, "Nomad")
    assert nomad.__file__ is not None
    library = Path(nomad.__file__).resolve()
    assert FOLDER.resolve() not in library.parents


@pytest.mark.parametrize(
    "files", [(SERVER,), (CLIENT,), (SERVER, CLIENT, SINGLE)], ids=["server", "client", "single"]
)
def test_nomad_accepts_the_configuration(files: tuple[Path, ...]) -> None:
    binary = require_programs("nomad")
    told = subprocess.run(
        [binary, "config", "validate", *map(str, files)], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert "Configuration is valid!" in told.stdout


def _value(file: Path, name: str) -> str:
    found = re.findall(
        rf'^\s*{name}\s*=\s*"?([^"\n#]+?)"?\s*(?:#.*)?$', file.read_text("utf-8"), re.MULTILINE
    )
    assert len(found) == 1, f"{name} stands {len(found)} times in {file.name}"
    return str(found[0])


def test_values_that_the_design_rests_on() -> None:
    assert (_value(CLIENT, "min_dynamic_port"), _value(CLIENT, "max_dynamic_port")) == ("3100", "3199")
    assert _value(CLIENT, "reserved_ports") == "3100-3199"
    # A kill timeout that the client cuts short would lose credentials without a word.
    kill = float(_value(CLIENT, "max_kill_timeout").removesuffix("s"))
    assert kill >= max(60, Policy().kill_timeout_s)
    assert _value(CLIENT, "attempts") == "0"
    assert _value(CLIENT, "allow_privileged") == "false"
    assert _value(SERVER, "memory_oversubscription_enabled") == "true"
    assert _value(SERVER, "disable_update_check") == _value(CLIENT, "disable_update_check") == "true"
    raw_exec = CLIENT.read_text("utf-8").partition('plugin "raw_exec"')[2]
    assert re.search(r"enabled = false", raw_exec.partition("acl {")[0])


def test_policy_covers_every_variable_path_of_ours_and_no_other() -> None:
    from core.domain import names

    policy = (FOLDER / "policies" / "daemon.hcl").read_text("utf-8")
    assert re.findall(r'path "([^"]+)"', policy) == [names.VARIABLE_PREFIX + names.JOB_PREFIX + "*"]
    assert [path.name for path in (FOLDER / "policies").iterdir()] == ["daemon.hcl"]  # none for the API
