"""Sessions as WAHA's answers show them."""

from __future__ import annotations

from sandbox.waha.session import STOPPED, WORKING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox.waha.session import RunningSession


def session_info(record: dict[str, Any], session: RunningSession | None) -> dict[str, Any]:
    """One entry of a list; `session` is None when it does not run."""
    info = {
        "name": record["name"],
        "status": session.status if session else STOPPED,
        "me": record["me"],
        "presence": "online" if session and session.status == WORKING else None,
        "timestamps": {"activity": session.activity if session else None},
    }
    if record["worker"] is not None:
        info["assignedWorker"] = record["worker"]
    if record["config"] is not None:
        info["config"] = record["config"]
    if record["apps"] is not None:
        info["apps"] = record["apps"]
    return info


def detailed_info(record: dict[str, Any], session: RunningSession | None, engine: str) -> dict[str, Any]:
    """One session with what its engine says."""
    said: dict[str, Any] = {}
    if session is not None:
        said = {"engine": engine}
        if engine == "GOWS":
            connected = session.status == WORKING and not session.deaf and not session.was_replaced
            said["gows"] = {"found": True, "connected": connected}
    return {**session_info(record, session), "engine": said}
