"""A case that no real agent has passed proves nothing about the double."""

from __future__ import annotations

from tests.contract import evidence
from tests.contract.consul.conftest import known_cases


def test_a_real_agent_has_passed_every_case() -> None:
    newest = evidence.newest("consul")
    assert newest is not None, "no evidence: put a consul on PATH and run tests/contract/consul"
    missing = sorted(case for case in known_cases() if newest.cases.get(case) != evidence.PASSED)
    assert not missing, (
        f"the evidence of Consul {newest.version} lacks these cases; put a consul on PATH, run "
        f"tests/contract/consul and commit docs/evidence: {', '.join(missing)}"
    )
