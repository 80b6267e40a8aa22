"""The committed record of what a real agent did covers every case there is."""

from __future__ import annotations

from tests.contract.nomad.evidence import all_cases, newest


def test_every_case_was_seen_on_a_real_agent() -> None:
    found = newest()
    assert found is not None, (
        "run this suite with `nomad` on PATH and commit docs/evidence/contract-nomad-*.json"
    )
    version, seen = found
    missing = all_cases() - seen.keys()
    assert not missing, (
        f"not in the evidence of Nomad {version}; run the suite with `nomad` on PATH: {sorted(missing)}"
    )
    failed = {case for case, result in seen.items() if result != "passed"}
    assert not failed, f"failed on Nomad {version}: {sorted(failed)}"
