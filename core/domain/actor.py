"""Who asks for a change, and from where: what the audit log keeps of every change."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class ActorKind(StrEnum):
    """In which role somebody acts."""

    VISITOR = "visitor"  # nobody yet: who registers or logs in
    USER = "user"
    SERVICE = "service"  # a trusted service, by its key
    OPERATOR = "operator"
    COMMAND_LINE = "command_line"  # an operator's verb that works on the store itself


class Claim(msgspec.Struct, frozen=True):
    """A request's hold on its `Idempotency-Key`; the token rises when a later request takes it over."""

    id: int
    token: int


class Actor(msgspec.Struct, frozen=True):
    """Who acts.

    Attributes:
        user_id: the account; None for who has none.
        key_id: the API key that was shown, if one was.
        address: where the request came from; empty for the command line.
        request_id: joins the line to those of the access log.
        name: who sits at the terminal; empty for everybody else.
        claim: what the change is to be noted on, so that the same request never has its effect twice.
    """

    kind: ActorKind
    user_id: str | None = None
    key_id: str | None = None
    address: str = ""
    request_id: str = ""
    name: str = ""
    claim: Claim | None = None


COMMAND_LINE = Actor(ActorKind.COMMAND_LINE)
