"""Planted bugs of the fence: each patch in `mutants/` breaks one rule of leases, and few seeds must show it.

Those in `mutants/open/` take more seeds than a test may; they are tried with `python -m tests.simulation.fence`.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from tests.simulation.test_mutants import HALF_WRITTEN, apply
from tests.simulation.test_mutants import first_failure as of_any

ROOT = Path(__file__).parents[3]
MUTANTS = sorted((Path(__file__).parent / "mutants").glob("*.patch"))
_PARTS = ("core", "egress", "tests", "typings")
_NAMED = {
    "confirm_without_close",
    "count_from_reply",
    "freed_by_lost",
    "grant_while_another_lives",
    "margin_zero",
    "monotonic_instead_of_boottime",
    "no_check_before_the_chunk",
    "old_confirmation_frees_a_newer_grant",
}
_SEEDS = 400
_TIMEOUT_S = 600


first_failure = partial(of_any, module="tests.simulation.fence", timeout_s=_TIMEOUT_S)


def test_none_got_lost() -> None:
    assert {patch.stem for patch in MUTANTS} >= _NAMED


@pytest.mark.timeout(2 * _TIMEOUT_S)
@pytest.mark.parametrize("patch", MUTANTS, ids=lambda path: path.stem)
def test_a_planted_bug_is_found(patch: Path, tmp_path: Path) -> None:
    for part in _PARTS:
        shutil.copytree(ROOT / part, tmp_path / part, ignore=HALF_WRITTEN)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    hint = apply(patch, tmp_path)
    assert first_failure(ROOT, str(hint)) == "", f"seed {hint} fails without the planted bug"
    found = first_failure(tmp_path, str(hint)) or first_failure(tmp_path, f"0-{_SEEDS - 1}")
    assert found, f"{patch.stem} was not found within {_SEEDS} seeds"
    assert "the simulation broke" not in found
