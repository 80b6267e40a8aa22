"""Rules about the repository itself that no linter knows."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = ("api", "cli", "core", "daemon", "egress", "sandbox", "bench")
LINES = 400
LINES_OF_TESTS = 600  # cases that belong together stay together
IMPURE_MODULES = {"time", "random", "os", "socket", "asyncio", "secrets", "threading", "subprocess", "sys"}
CLOCK_CALLS = {
    "now",
    "utcnow",
    "today",
    "time",
    "monotonic",
    "uuid1",
    "uuid4",
    "getrandbits",
    "open",
    "print",
    "input",
}
TEXTS = (
    "README.md",
    *(f"docs/{name}" for name in ("architecture.md", "glossary.md", "runbook.md", "settings.md")),
)


def _files(*folders: str, suffix: str = ".py") -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob(f"*{suffix}")):
            if "__pycache__" not in path.parts:
                yield path


def _named(path: Path) -> str:
    return str(path.relative_to(ROOT))


PURE = tuple(_files("core/domain"))
LINKED = tuple(path for path in (ROOT / "README.md", *_files("docs", suffix=".md")) if path.exists())


@pytest.mark.parametrize(
    ("library", "attribute"), [("nomad", "Nomad"), ("consul", "Consul"), ("redis", "Redis")]
)
def test_a_library_is_not_shadowed_by_a_folder_of_ours(library: str, attribute: str) -> None:
    module = importlib.import_module(library)
    assert hasattr(module, attribute)
    assert module.__file__ is not None
    inside = Path(module.__file__).is_relative_to(ROOT)
    assert not inside or ".venv" in Path(module.__file__).parts


def test_the_folder_nomad_holds_no_python() -> None:
    assert [_named(path) for path in _files("nomad")] == []


def test_no_module_has_the_name_of_a_library() -> None:
    taken = {"nomad.py", "consul.py", "redis.py"}
    found = [_named(path) for path in _files(*CODE, "tests") if path.name in taken]
    assert found == []


def test_there_are_pure_rules_to_check() -> None:
    assert len(PURE) > 5


@pytest.mark.parametrize("path", PURE, ids=_named)
def test_pure_rules_wait_for_nothing_and_ask_nobody(path: Path) -> None:
    problems = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            problems.append(f"line {node.lineno}: async")
        if isinstance(node, ast.Import):
            problems += [
                f"line {node.lineno}: {name.name}"
                for name in node.names
                if name.name.split(".")[0] in IMPURE_MODULES
            ]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in IMPURE_MODULES:
            problems.append(f"line {node.lineno}: {node.module}")
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in CLOCK_CALLS:
                problems.append(f"line {node.lineno}: {name}()")
    assert problems == []


def test_no_file_of_code_is_too_long() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in _files(*CODE, "tests")}
    limits = {
        path: LINES if path.relative_to(ROOT).parts[0] != "tests" else LINES_OF_TESTS for path in lengths
    }
    assert {_named(path): lines for path, lines in lengths.items() if lines > limits[path]} == {}


def test_all_texts_are_there() -> None:
    assert [name for name in TEXTS if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("path", LINKED, ids=_named)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        found = (path.parent / place).resolve() if place else path
        if (
            not found.exists()
            or not found.is_relative_to(ROOT)
            or (anchor and found.suffix == ".md" and anchor not in _anchors(found))
        ):
            broken.append(target)
    assert broken == []


def _anchors(path: Path) -> set[str]:
    """Anchors of headings as GitHub makes them."""
    heads = re.findall(r"^#+ +(.+?) *$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_make_prints_every_target_by_default() -> None:
    printed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    makefile = (ROOT / "Makefile").read_text()
    targets = {
        name for line in re.findall(r"^\.PHONY:(.*)$", makefile, re.MULTILINE) for name in line.split()
    }
    assert targets >= {"setup", "demo", "test", "check", "bench", "soak"}
    missing = [name for name in sorted(targets) if not re.search(rf"\bmake {name}\b", printed)]
    assert missing == []


def test_the_lock_files_name_no_index() -> None:
    for path in _files("requirements", suffix=".lock"):
        text = path.read_text()
        assert "--hash=sha256:" in text
        assert not re.search(r"https?://|index-url|find-links|trusted-host", text), _named(path)


def test_the_readme_names_only_commands_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in sorted(set(re.findall(r"\bmake ([a-z]+)\b", text))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
