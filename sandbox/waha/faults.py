"""What a test makes go wrong in a simulated container."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Faults:
    """What goes wrong for one session name."""

    __slots__ = ("hang_seconds", "silent", "start_error", "stop_seconds", "stuck_starting")

    def __init__(
        self,
        *,
        stuck_starting: bool = False,
        silent: bool = False,
        start_error: bool = False,
        hang_seconds: float = 0.0,
        stop_seconds: float = 0.0,
    ) -> None:
        self.stuck_starting = stuck_starting
        """STARTING for ever: neither a QR nor FAILED."""
        self.silent = silent
        """WORKING without life: no events, activity frozen, a restart does not help."""
        self.start_error = start_error
        """The engine does not start: FAILED at once, and the call answers 500."""
        self.hang_seconds = hang_seconds
        """Extra seconds that the start call takes."""
        self.stop_seconds = stop_seconds
        """Extra seconds that the stop takes."""

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class Failures:
    """The next API calls that answer 500, with the request repeated in the body as WAHA does it."""

    def __init__(self) -> None:
        self.count = 0
        self.method = ""
        self.path = ""
        self.after = False
        """True when the call is carried out all the same; only its answer is lost."""

    def plan(self, count: int, method: str, path: str, *, after: bool) -> None:
        """`count` calls whose method and path begin like these; empty is any."""
        self.count, self.method, self.path, self.after = count, method, path, after

    def take(self, method: str, path: str) -> str | None:
        """`before` or `after` when this call is one of them."""
        if not self.count or not method.startswith(self.method) or not path.startswith(self.path):
            return None
        self.count -= 1
        return "after" if self.after else "before"


def faults_from_json(text: str) -> dict[str, Faults]:
    """`{"<session>": {"hang_seconds": 40}}` -> faults by session name, "*" for all others.

    Raises ValueError.
    """
    content = json.loads(text or "{}")
    if not isinstance(content, dict):
        raise ValueError("faults must be a JSON object by session name")  # noqa: TRY004
    try:
        return {name: Faults(**options) for name, options in content.items()}
    except TypeError as error:
        raise ValueError(str(error)) from error
