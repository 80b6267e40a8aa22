"""A chip's health score: 0 to 100, in steps of 5.

    never paired, unlinked on the phone, or banned        0
    paired and connected                                100   else 50
    each drop of the connection in the last 24 hours     -5   30 at most
    each start or restart in a row without success      -10   30 at most
    each full 12 hours since the last sign of life       -5   40 at most

A drop is a move away from CONNECTED that its owner did not ask for. The last sign of life is the last
activity that WAHA told; with an engine that tells none, a connected chip loses nothing for silence and one
that is not connected counts from its last connection.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

DROP_WINDOW: Final = timedelta(hours=24)
_SILENCE_STEP: Final = timedelta(hours=12)


def health_score(
    *,
    paired: bool,
    connected: bool,
    drops: int,
    failures: int,
    connected_at: datetime | None,
    last_activity_at: datetime | None,
    now: datetime,
) -> int:
    """The score of a chip at `now`. `drops` within `DROP_WINDOW`; `failures` of the current generation."""
    if not paired:
        return 0
    score = 100 if connected else 50
    score -= min(30, 5 * drops)
    score -= min(30, 10 * failures)
    life = last_activity_at
    if connected_at is not None:
        if life is not None:
            life = max(life, connected_at)
        elif not connected:
            life = connected_at
    if life is not None and now > life:
        score -= min(40, 5 * ((now - life) // _SILENCE_STEP))
    return max(0, score)
