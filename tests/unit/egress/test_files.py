"""Open files are counted before the first tunnel, not at the one that finds none left."""

from __future__ import annotations

import resource

import pytest

from core.settings import SettingsError
from egress.main import check_files


@pytest.mark.parametrize(
    ("tunnels", "limits", "raised"),
    [
        (2000, (1024, 20_000), [(5088, 20_000)]),
        (2000, (1024, resource.RLIM_INFINITY), [(5088, resource.RLIM_INFINITY)]),
        (2000, (5088, 5088), []),
        (2000, (resource.RLIM_INFINITY, resource.RLIM_INFINITY), []),
    ],
)
def test_the_limit_is_raised_to_what_is_needed_and_no_further(
    tunnels: int, limits: tuple[int, int], raised: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: said.append(new))
    check_files(tunnels)
    assert said == raised


def test_a_limit_that_may_not_be_raised_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 5087))
    with pytest.raises(
        SettingsError, match="2000 tunnels need 5088 open files and this process may have 5087"
    ):
        check_files(2000)
