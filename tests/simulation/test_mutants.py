"""Planted bugs: each patch in `mutants/` breaks a rule of the product, and the simulation must find it.

Those in `mutants/open/` it did not find yet, or not for sure; they are tried with `python -m tests.simulation`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MUTANTS = sorted((Path(__file__).parent / "mutants").glob("*.patch"))
_PARTS = ("core", "daemon", "jobspecs", "tests", "typings")
# The mistakes that cost a fleet most; others may come and go.
_NAMED = {
    "dropped_key_on_a_failed_claim",
    "ledger_entry_never_closed",
    "press_costs_credentials_in_an_outage",
    "register_during_the_wait",
    "unknown_read_as_missing",
}
_SEEDS = 500
_TIMEOUT_S = 900


# What is compiled already goes along, since a copy keeps the times by which Python knows what is stale; not what
# another process is just writing.
HALF_WRITTEN = shutil.ignore_patterns("*.pyc.*")


class DoesNotApply(Exception):
    """The product changed where the patch wants to change it."""


def apply(patch: Path, root: Path) -> int:
    """Put the patch's replacements into the tree below `root`; the seed that found it before.

    A patch is a unified diff after a line `# seed: N`. Its hunks are matched by their text alone, once in the
    file, so that lines moving elsewhere do not make it stale.
    """
    seed = 0
    target: Path | None = None
    old: list[str] = []
    new: list[str] = []
    hunks: list[tuple[Path, str, str]] = []

    def finish() -> None:
        if target is not None and (old or new):
            hunks.append((target, "".join(old), "".join(new)))

    for line in patch.read_text().splitlines(keepends=True):
        if line.startswith("# seed:"):
            seed = int(line.split(":")[1])
        elif line.startswith("--- "):
            finish()
            target, old, new = None, [], []
        elif line.startswith("+++ "):
            target = root / line.split()[1].removeprefix("b/")
        elif line.startswith("@@"):
            finish()
            old, new = [], []
        elif target is not None and line[:1] in (" ", "-", "+"):
            if line[0] != "+":
                old.append(line[1:])
            if line[0] != "-":
                new.append(line[1:])
    finish()
    for path, before, after in hunks:
        text = path.read_text() if path.exists() else ""
        if text.count(before) != 1:
            raise DoesNotApply(
                f"{patch.name} does not apply any more: {path.name} has its lines {text.count(before)} times; "
                "write the patch anew for the code as it is."
            )
        path.write_text(text.replace(before, after))
    return seed


def first_failure(
    root: Path, seeds: str, *, module: str = "tests.simulation", timeout_s: float = _TIMEOUT_S
) -> str:
    """What the first seed that fails says; "" when all hold."""
    command = [sys.executable, "-m", module, "--first", "--seeds", seeds]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=timeout_s, check=False,
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert '"seeds":' in done.stdout, done.stderr
    assert done.returncode == 0 or done.stderr.strip(), "a seed failed without a word"
    return "" if done.returncode == 0 else done.stderr.strip()


def finds(root: Path, seeds: str) -> bool:
    return first_failure(root, seeds) != ""


def test_none_got_lost() -> None:
    assert len(MUTANTS) >= 14
    assert {patch.stem for patch in MUTANTS} >= _NAMED


@cache
def holds(seed: int) -> bool:
    """Whether the product as it is passes this seed: one that fails anyway finds nothing."""
    return not finds(ROOT, str(seed))


@pytest.mark.timeout(2 * _TIMEOUT_S)
@pytest.mark.parametrize("patch", MUTANTS, ids=lambda path: path.stem)
def test_a_planted_bug_is_found(patch: Path, tmp_path: Path) -> None:
    for part in _PARTS:
        shutil.copytree(ROOT / part, tmp_path / part, ignore=HALF_WRITTEN)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tests" / "__init__.py").touch()
    hint = apply(patch, tmp_path)
    assert holds(hint), f"seed {hint} fails without the planted bug"
    if not finds(tmp_path, str(hint)):
        assert finds(tmp_path, f"0-{_SEEDS - 1}"), f"{patch.stem} was not found within {_SEEDS} seeds"


def test_a_stale_patch_is_told(tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "a.py").write_text("x = 2\n")
    patch = tmp_path / "stale.patch"
    patch.write_text("# seed: 3\n--- a/core/a.py\n+++ b/core/a.py\n@@\n-x = 1\n+x = 3\n")
    with pytest.raises(DoesNotApply, match="does not apply any more"):
        apply(patch, tmp_path)
