"""Tests that want a real agent, and skip with a reason where its program is missing."""

from __future__ import annotations

import shutil

import pytest

WITHOUT = "what needs the real agent was checked against the double alone, or not at all"


def require_programs(*names: str) -> str:
    """Path of the first of the programs `names`. Skips the test where one of them is not on PATH."""
    found = {name: shutil.which(name) for name in names}
    missing = [f"`{name}`" for name, path in found.items() if path is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} on PATH: {WITHOUT}")
    return str(found[names[0]])
