"""The `Prefer` header (RFC 7240), as far as it is ours: `wait=N` and `respond-async`."""

from __future__ import annotations

from typing import Final

import msgspec

WAIT_LIMIT_S: Final = 30


class Preference(msgspec.Struct, frozen=True):
    """How long to wait, in seconds, and what to say in `Preference-Applied` (None = nothing was asked)."""

    wait_s: float
    applied: str | None = None


def preference(header: str, default_wait_s: float) -> Preference:
    """`respond-async` wins over `wait`; a longer wait than `WAIT_LIMIT_S` is cut and the answer says so.

    What is not understood is ignored, as the RFC wants it.
    """
    wishes: dict[str, str] = {}
    for part in header.split(","):
        name, _, value = part.split(";", 1)[0].partition("=")
        wishes.setdefault(name.strip().lower(), value.strip().strip('"'))
    if "respond-async" in wishes:
        return Preference(0, "respond-async")
    wait = wishes.get("wait", "")
    if wait.isascii() and wait.isdigit():
        # A number of many digits is as long as one of three.
        seconds = WAIT_LIMIT_S if len(wait) > 3 else min(int(wait), WAIT_LIMIT_S)
        return Preference(seconds, f"wait={seconds}")
    return Preference(default_wait_s)
