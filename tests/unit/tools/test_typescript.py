"""docs/api/wahafleet.d.ts is what the API is, and what the pages do compiles against it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
TOOL = ROOT / "tools" / "typescript.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("typescript_tool", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not module.is_installed() and not os.environ.get("CI"):
        pytest.skip("the TypeScript tools are not in .venv (make typescript)")
    return module


def test_the_types_are_those_of_the_document_and_the_sample_compiles(tool: ModuleType) -> None:
    ran = subprocess.run([sys.executable, str(TOOL), "check"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("chip.extra_data.waha_plus_port", "chip.extra_data.waha_plus_prot"),
        ("tokens.access_token", "tokens.accessToken"),
        ('code.status === "WORKING"', "code.status.length === 7"),
        ("show(code.qr, code.message)", "show(code.message, code.qr)"),
    ],
)
def test_what_the_api_does_not_have_is_not_compiled(
    tool: ModuleType, tmp_path: Path, right: str, wrong: str
) -> None:
    for name in ("wahafleet.d.ts", "tsconfig.json", "sample.ts"):
        shutil.copyfile(tool.SOURCE / name, tmp_path / name)
    sample = tmp_path / "sample.ts"
    assert right in sample.read_text("utf-8")
    sample.write_text(sample.read_text("utf-8").replace(right, wrong), "utf-8")
    assert "error TS" in tool.compile_sample(tmp_path)


def test_the_lock_names_no_registry(tool: ModuleType) -> None:
    text = (tool.SOURCE / "package-lock.json").read_text("utf-8")
    assert '"integrity": "sha512-' in text
    assert '"resolved"' not in text
