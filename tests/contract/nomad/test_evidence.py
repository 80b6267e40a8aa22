"""The committed record of what real agents did covers every case there is.

A case that was added since is asked of one release at least; the others' records are of the day they were made.
"""

from __future__ import annotations

from tests.contract.nomad.evidence import all_cases, releases


def test_every_case_was_seen_on_a_real_agent() -> None:
    found = releases()
    assert found, "run this suite with `nomad` on PATH and commit docs/evidence/contract-nomad-*.json"
    seen = {case for cases in found.values() for case in cases}
    missing = all_cases() - seen
    assert not missing, (
        f"not in the evidence of Nomad {', '.join(found)}; run the suite with `nomad` on PATH: {sorted(missing)}"
    )


def test_no_release_failed_a_case() -> None:
    for version, cases in releases().items():
        failed = {case for case, result in cases.items() if result != "passed"}
        assert not failed, f"failed on Nomad {version}: {sorted(failed)}"
