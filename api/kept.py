"""What a process keeps of users' rows, each under the version that it was read for."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """The values of the users who were asked about last, at most `limit` of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, tuple[str, T]] = OrderedDict()

    def get(self, user_id: str, version: str) -> T | None:
        """What was kept for this very version; None for any other."""
        found = self._kept.get(user_id)
        if found is None or found[0] != version:
            return None
        self._kept.move_to_end(user_id)
        return found[1]

    def put(self, user_id: str, version: str, value: T) -> None:
        """Keep `value`, which was read after `version` was, instead of what was kept of the user."""
        self._kept[user_id] = (version, value)
        self._kept.move_to_end(user_id)
        if len(self._kept) > self._limit:
            self._kept.popitem(last=False)
