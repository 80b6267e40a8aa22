"""Refusals of the double, and Go's notation of durations."""

from __future__ import annotations

import re

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


class RefusalError(Exception):
    """A refusal that reaches the client as text/plain (400 from Consul's HTTP layer, 500 from behind it)."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def duration_s(text: str) -> float:
    """Seconds of a Go duration such as `1m30s`. Raises ValueError."""
    if text in ("0", "+0", "-0"):
        return 0.0
    body = text.removeprefix("+").removeprefix("-")
    parts = _PART.findall(body)
    if not parts or "".join(number + unit for number, unit in parts) != body:
        raise ValueError(f'time: invalid duration "{text}"')
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    return -seconds if text.startswith("-") else seconds
