"""Whether chips have providers to go out through, as `wahafleet doctor` tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cli.failures import CommandError
from cli.findings import Finding, State
from cli.target import Target


def providers(target: Target, env: Mapping[str, str]) -> Finding:
    """Asked of the API. UNKNOWN where it does not answer, or nobody here is an operator."""
    if env.get("WAHAFLEET_EGRESS", "").strip() == "direct":
        return Finding(State.OK, "WAHAFLEET_EGRESS=direct: chips leave without providers.")
    try:
        rows: list[dict[str, Any]] = target.get("/fleet/providers")
        shared: list[dict[str, Any]] = target.get("/fleet")["shared_exits"]
    except CommandError as error:
        return Finding(State.UNKNOWN, f"providers were not looked at: {error}")
    return judged(rows, shared)


def judged(rows: list[dict[str, Any]], shared: list[dict[str, Any]]) -> Finding:
    """`rows`: of `GET /fleet/providers`. `shared`: exits that several live chips have, of `GET /fleet`."""
    default = next((row for row in rows if row["is_default"] and row["enabled"]), None)
    if default is None:
        return Finding(
            State.WRONG,
            "no enabled provider is the default, so no chip gets a label; `wahafleet provider list`, then `add` or "
            "`default`.",
        )
    slug = default["slug"]
    if default["sub_users"] == 0:
        return Finding(
            State.WRONG,
            f"{slug} has no sub-user, so no chip gets a label; `wahafleet provider sub-user add {slug} LOGIN`.",
        )
    if default["trouble"]:
        return Finding(
            State.WRONG,
            f"{slug} is in trouble ({default['trouble']}); docs/providers.md, Trouble, tells what to do.",
        )
    if default["room"] == 0:
        return Finding(
            State.WRONG,
            f"{slug} has no room for another chip; `wahafleet provider sub-user add {slug} LOGIN`, or raise --max-chips.",
        )
    if shared:
        return Finding(
            State.WRONG,
            f"{shared[0]['exit_ip']} is the exit of {len(shared[0]['chips'])} live chips; `wahafleet fleet show` names "
            "them, and `wahafleet chip rotate-label` gives one of them another.",
        )
    return Finding(
        State.OK, f"{slug} carries {default['chips']} chips and has room for {default['room']} more."
    )
