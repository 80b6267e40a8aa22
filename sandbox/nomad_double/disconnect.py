"""Rules of the `disconnect` block: how long a lost allocation's place is held, and which one may come back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from sandbox.nomad_double.durations import iso_time, parse_iso_time
from sandbox.nomad_double.jobspec import group_of
from sandbox.nomad_double.model import Allocation, Json, Node

DEFAULT_KILL_NS = 5_000_000_000
CLIENT_STATUS_FIELD = 0
"""`AllocStates[].Field` of a change of the client's status."""


def block_of(alloc: Allocation) -> Json:
    """The group's disconnect block, `{}` when it has none."""
    return dict((group_of(alloc.job, alloc.task_group) or {}).get("Disconnect") or {})


def replacement_held_ns(alloc: Allocation, speed: float) -> int:
    """How long after the loss a replacement must wait: S + max(5 s, longest kill timeout); 0 without S.

    The servers give the client that time to stop the old one (Allocation.WaitClientStop).
    """
    stop_after = int(block_of(alloc).get("StopOnClientAfter") or 0)
    if not stop_after:
        return 0
    group = group_of(alloc.job, alloc.task_group) or {"Tasks": []}
    kill = max([DEFAULT_KILL_NS, *(int(task["KillTimeout"]) for task in group["Tasks"])])
    return round((stop_after + kill) / speed)


def lost_after_ns(alloc: Allocation, speed: float) -> int:
    """`lost_after`, 0 without."""
    return round(int(block_of(alloc).get("LostAfter") or 0) / speed)


def unknown_since_ns(alloc: Allocation) -> int | None:
    """When it was last marked unknown, None when its newest status is another one the servers gave."""
    states = [s for s in alloc.alloc_states or () if s["Field"] == CLIENT_STATUS_FIELD]
    if not states or states[-1]["Value"] != "unknown":
        return None
    return parse_iso_time(states[-1]["Time"])


def state_change(status: str, now_ns: int) -> Json:
    """An entry of `AllocStates`: the servers' own word of the client's status."""
    return {"Field": CLIENT_STATUS_FIELD, "Value": status, "Time": iso_time(now_ns)}


Silence = Literal["lost", "unknown", "returned"]
"""lost: give it up. unknown: it may come back. returned: it was unknown and its node is heard again."""


def may_come_back(allocs: Iterable[Allocation], now_ns: int, speed: float) -> bool:
    """Does a silent node hold anything that is wanted and whose `lost_after` has not passed?"""
    for alloc in allocs:
        after = lost_after_ns(alloc, speed)
        if not after or alloc.desired_status != "run" or alloc.client_terminal:
            continue
        since = unknown_since_ns(alloc)
        if since is None or since + after > now_ns:
            return True
    return False


def silence_of(alloc: Allocation, node: Node | None, now_ns: int, speed: float) -> Silence | None:
    """What the silence or the return of its node means for an allocation; None: nothing.

    Follows filterByTainted of Nomad 1.10.5 without canaries.
    """
    block = block_of(alloc)
    after = lost_after_ns(alloc, speed)
    stays = bool(after) or block.get("Replace") is False
    since = unknown_since_ns(alloc)
    expired = bool(after) and since is not None and since + after <= now_ns
    if node is not None and node.status == "disconnected":
        if stays and not alloc.terminal:
            return "lost" if expired or (after and alloc.client_status == "pending") else "unknown"
        # What has no way back is given up by every evaluation anew, so here a wait begins again instead of
        # being skipped (measured on Nomad 1.10.5).
        settled = alloc.terminal and not (alloc.client_status == "lost" and replacement_held_ns(alloc, speed))
        return None if settled else "lost"
    if alloc.terminal:
        return None
    if node is None or node.status == "down":
        waits = node is not None and stays and alloc.client_status != "pending" and not expired
        return "unknown" if waits and (since is not None or not after) else "lost"
    if since is None:
        return None
    return "lost" if expired else "returned"
