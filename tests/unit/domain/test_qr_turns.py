from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from core.domain.qr_view import is_next_code, qr_lasts, status_told

SCAN, STARTING = "SCAN_QR_CODE", "STARTING"


def listed(*statuses: Any) -> dict[str, Any]:
    return {"status": statuses[-1], "statuses": [{"status": status, "timestamp": 1} for status in statuses]}


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (listed(STARTING, SCAN), (STARTING, SCAN)),
        ({"status": SCAN}, (SCAN,)),  # before 2025.9.4
        ({"status": SCAN, "statuses": [{"status": STARTING}]}, (STARTING, SCAN)),
        ({"status": SCAN, "statuses": "x"}, (SCAN,)),
        ({"status": SCAN, "statuses": [7, {"status": None}, {}]}, (SCAN,)),
        ({"status": 7}, ()),
        ({}, ()),
        (None, ()),
        ([SCAN], ()),
        (SCAN, ()),
    ],
)
def test_what_a_webhook_tells_of_a_session(payload: object, told: tuple[str, ...]) -> None:
    assert status_told(payload) == told


@pytest.mark.parametrize(
    ("statuses", "lasts_s"),
    [
        ((STARTING, SCAN), 60),
        (("STOPPED", STARTING, SCAN), 60),
        ((SCAN, SCAN), 20),
        ((STARTING, SCAN, SCAN), 20),
        ((SCAN,), 20),  # of unknown place
    ],
)
def test_how_long_a_code_lasts(statuses: tuple[str, ...], lasts_s: int) -> None:
    assert qr_lasts(statuses) == timedelta(seconds=lasts_s)


@pytest.mark.parametrize(
    ("statuses", "no_more"),
    [
        ((SCAN, SCAN), True),
        ((STARTING, SCAN, SCAN), True),
        ((STARTING, SCAN), False),
        ((SCAN, STARTING, SCAN), False),
        ((SCAN, SCAN, "FAILED"), False),
        ((SCAN, "WORKING"), False),
        (("WORKING", "WORKING"), False),
        ((SCAN,), False),  # nobody knows what it was before
        ((), False),
    ],
)
def test_what_tells_no_more_than_the_next_code(statuses: tuple[str, ...], no_more: bool) -> None:
    assert is_next_code(statuses) is no_more
