"""Chips and their bytes: read and rendered again only when they changed, and each request asks whether they did.

What is kept may be newer than its version, never older: it was read after it. So nobody is shown what a
write that was answered before has replaced, whichever process took that write.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from api.answers import Body
from api.kept import Kept
from api.standings import Standings
from core.domain.views import StoredChip
from core.store import queries
from core.store.engine import Engine
from core.store.standings import Standing

# Ten chips are 20 KB as objects and as much again as bytes in both letter cases.
_LIMIT: Final = 2000


class UserChips:
    """All chips of a user, oldest first, and what was rendered of them: by chip id (None = all) and case."""

    def __init__(self, chips: tuple[StoredChip, ...]) -> None:
        self.all = chips
        self.by_id: Mapping[str, StoredChip] = {chip.id: chip for chip in chips}
        self.bodies: dict[tuple[str | None, bool], Body] = {}


class ChipCache:
    """As `queries.list_chips`, at the cost of a standing."""

    def __init__(self, engine: Engine, standings: Standings) -> None:
        self._engine = engine
        self._standings = standings
        self._kept: Kept[UserChips] = Kept(_LIMIT)

    def kept(self, user_id: str, standing: Standing | None) -> UserChips | None:
        """What is at hand for this very standing."""
        return None if standing is None else self._kept.get(user_id, standing.chips)

    async def of(self, user_id: str, standing: Standing | None) -> UserChips:
        """The user's chips. `standing`: as this very request read it, None when it read none.

        Raises Unavailable.
        """
        standing = standing or await self._standings.of(user_id)
        if standing is None:
            return UserChips(())
        found = self.kept(user_id, standing)
        if found is None:
            found = UserChips(await queries.list_chips(self._engine, user_id))
            self._kept.put(user_id, standing.chips, found)
        return found
