"""What is made to go wrong at the provider."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Refusal(StrEnum):
    """Why a tunnel is not opened."""

    PASSWORD = "password"  # noqa: S105  the word for a wrong one
    FULL = "full"  # too many connections on this login
    EXHAUSTED = "exhausted"  # its volume is used up
    NO_PEER = "no_peer"  # no exit to offer right now
    RULES = "rules"  # the destination is not allowed
    NOWHERE = "nowhere"  # the destination does not exist


class BadKnob(ValueError):
    """One sentence that says what to send instead."""


@dataclass
class Knobs:
    """All of them; each is sent by its name, and those that are left out stay.

    Attributes:
        refuse: what is said to a user name instead of a tunnel; "*" = to every one without a word of its own.
        dead: nobody listens, and nothing that was open is any more.
        silent: connections are taken and nothing is said.
        slow_s: seconds before each answer to a knock.
        most: tunnels of all users at a time; the next one finds the provider full. None = no limit.
        exits: exit IP of a user name, so that two can share one.
    """

    refuse: dict[str, Refusal] = field(default_factory=dict)
    dead: bool = False
    silent: bool = False
    slow_s: float = 0.0
    most: int | None = None
    exits: dict[str, str] = field(default_factory=dict)

    def refusal(self, user: str) -> Refusal | None:
        return self.refuse.get(user, self.refuse.get("*"))

    def change(self, body: dict[str, Any]) -> None:
        """Raises BadKnob, and changes nothing then."""
        checked = {name: _checked(name, value) for name, value in body.items()}
        for name, value in checked.items():
            setattr(self, name, value)

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


def _checked(name: str, value: Any) -> Any:
    try:
        if name == "refuse":
            return {str(user): Refusal(why) for user, why in value.items()}
        if name in ("dead", "silent") and isinstance(value, bool):
            return value
        if name == "slow_s" and 0 <= float(value) <= 600:
            return float(value)
        if name == "most" and (value is None or (type(value) is int and value >= 0)):
            return value
        if name == "exits":
            return {str(user): str(ipaddress.ip_address(exit_ip)) for user, exit_ip in value.items()}
    except (AttributeError, TypeError, ValueError):
        pass
    raise BadKnob(
        "knobs are refuse {user or *: "
        + "|".join(Refusal)
        + "}, dead, silent (true or false), slow_s (seconds), "
        "most (tunnels or null) and exits {user: IP}"
    )
