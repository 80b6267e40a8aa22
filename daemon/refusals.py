"""What was refused, so that it is not sent again and again.

A refusal is final until its owner wishes something else (the generation changes) or a while has passed in
which an operator may have mended the cause.
"""

from __future__ import annotations

import msgspec

from core.domain.actions import Action


class _Refusal(msgspec.Struct, frozen=True):
    generation: int
    code: str
    until: float


class Refusals:
    """Refused actions by user. `ttl_s`: after how long each may be tried once more."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._refused: dict[str, dict[Action, _Refusal]] = {}

    def add(self, user_id: str, action: Action, generation: int, code: str, now: float) -> None:
        """`generation`: of the wish that the action serves; `now` on the monotonic clock."""
        refusal = _Refusal(generation, code, now + self._ttl_s)
        self._refused.setdefault(user_id, {})[action] = refusal

    def code(self, user_id: str, action: Action, generation: int, now: float) -> str | None:
        """The code of the refusal that still stands, None when the action may be sent."""
        refusal = self._refused.get(user_id, {}).get(action)
        if refusal is None or refusal.generation != generation or refusal.until <= now:
            return None
        return refusal.code

    def forget(self, user_id: str, action: Action) -> None:
        """The action was accepted."""
        of_user = self._refused.get(user_id)
        if of_user is not None:
            of_user.pop(action, None)
            if not of_user:
                del self._refused[user_id]

    def forget_user(self, user_id: str) -> None:
        self._refused.pop(user_id, None)
