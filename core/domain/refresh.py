"""Refresh tokens: each may be used once, and one that is used again ends all that came of the same login.

A family is what descends from one login: every refresh gives a new token and uses up the one that was shown. The
store keeps a hash of the newest and of the one before, nothing of older ones: whatever carries the family's id, is
signed by us and is neither of the two was used up earlier.

    presented                                    verdict
    of a family that is unknown, ended, expired  refused
    the newest                                   rotate
    the one before, within the grace             repeat: the same new token once more
    any other                                    reused: the family ends
"""

from __future__ import annotations

import hmac
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

# A page that sends the same token twice at once, or that never got its answer, is no thief. Whoever stole the token
# and is that fast holds the same new one as its owner, so the next use of it by the second of both is seen.
GRACE: Final = timedelta(seconds=10)


class Verdict(StrEnum):
    ROTATE = "rotate"
    REPEAT = "repeat"
    REUSED = "reused"
    REFUSED = "refused"


class Family(msgspec.Struct, frozen=True):
    """What is kept of one login.

    Attributes:
        newest, before: hashes of the newest token's id and of the one that it replaced; None before the first refresh.
        rotated_at: when that happened.
        expires_at: when the newest token does.
    """

    newest: bytes
    before: bytes | None
    rotated_at: datetime | None
    expires_at: datetime
    ended: bool = False


def judge(family: Family, presented: bytes, now: datetime) -> Verdict:
    """The table at the head of this file. `presented`: hash of a token's id; `now`: by the clock of `rotated_at`."""
    if family.ended or now >= family.expires_at:
        return Verdict.REFUSED
    if hmac.compare_digest(presented, family.newest):
        return Verdict.ROTATE
    if (
        family.before is None
        or family.rotated_at is None
        or not hmac.compare_digest(presented, family.before)
    ):
        return Verdict.REUSED
    return Verdict.REPEAT if now - family.rotated_at <= GRACE else Verdict.REUSED
