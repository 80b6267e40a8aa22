"""How many examples property tests try: the same tests serve a quick run and a long one."""

from __future__ import annotations

import os

# 1 in `make test`; `make soak` raises it.
FACTOR = int(os.environ.get("WAHAFLEET_TEST_FACTOR", "1"))


def examples(quick: int) -> int:
    """Examples to try, given what a quick run tries."""
    return quick * FACTOR
