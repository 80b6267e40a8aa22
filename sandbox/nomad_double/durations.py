"""Go's notation of durations and times: what Nomad prints, and what it accepts in `wait=`."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


def go_duration(ns: int) -> str:
    """Nanoseconds as Go prints them: `5s`, `1m30s`, `1h0m0s`, `200ms`, `0s`."""
    if ns == 0:
        return "0s"
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    if ns < 1_000:
        return f"{sign}{ns}ns"
    if ns < 1_000_000:
        return f"{sign}{_trimmed(ns / 1_000)}µs"
    if ns < 1_000_000_000:
        return f"{sign}{_trimmed(ns / 1_000_000)}ms"
    hours, rest = divmod(ns, _UNITS_NS["h"])
    minutes, rest = divmod(rest, _UNITS_NS["m"])
    seconds, fraction = divmod(rest, _UNITS_NS["s"])
    text = f"{seconds}" + (f".{fraction:09d}".rstrip("0") if fraction else "") + "s"
    if hours:
        return f"{sign}{hours}h{minutes}m{text}"
    return f"{sign}{minutes}m{text}" if minutes else f"{sign}{text}"


def parse_go_duration(text: str) -> int:
    """`1m30s` in nanoseconds.

    Raises:
        ValueError: not a Go duration (a bare number other than 0 has no unit).
    """
    body = text.removeprefix("+")
    sign = -1 if body.startswith("-") else 1
    body = body.removeprefix("-")
    if body == "0":
        return 0
    position = 0
    total = 0.0
    while position < len(body):
        part = _PART.match(body, position)
        if part is None:
            break
        total += float(part.group(1)) * _UNITS_NS[part.group(2)]
        position = part.end()
    if position != len(body) or not body:
        raise ValueError(f'invalid duration "{text}"')
    return sign * round(total)


def iso_time(ns: int) -> str:
    """Nanoseconds since 1970 as RFC 3339 in UTC with nine digits."""
    seconds, fraction = divmod(ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{fraction:09d}Z"


def parse_iso_time(text: str) -> int:
    """The inverse of `iso_time`."""
    whole, _, rest = text.rstrip("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    return seconds * 1_000_000_000 + int((rest or "0").ljust(9, "0")[:9])


def _trimmed(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")
