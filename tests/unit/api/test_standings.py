from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from api.kept import Kept
from api.standings import AT_ONCE, Standings
from core.errors import Unavailable
from core.store.standings import Standing, StandingReader


class Store:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.versions: dict[str, int] = {"a": 1, "b": 1}
        self._answers: list[asyncio.Future[None]] = []

    async def read(self, user_ids: Sequence[str]) -> dict[str, Standing]:
        self.asked.append(tuple(user_ids))
        seen = {id_: Standing("", str(self.versions[id_])) for id_ in user_ids if id_ in self.versions}
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        await answer
        return seen

    def answer(self, error: Exception | None = None) -> None:
        future = self._answers.pop(0)
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def made() -> tuple[Store, Standings]:
    store = Store()
    return store, Standings(cast(StandingReader, cast(Any, store)))


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_comes_together_is_read_together() -> None:
    store, standings = made()
    waiting = [asyncio.create_task(standings.of(id_)) for id_ in ("a", "b", "a", "nobody")]
    await turn()
    assert [set(one) for one in store.asked] == [{"a", "b", "nobody"}]
    store.answer()
    assert await asyncio.gather(*waiting) == [Standing("", "1")] * 3 + [None]


async def test_a_read_begins_after_who_waits_for_it_came() -> None:
    store, standings = made()
    early = []
    for _ in range(AT_ONCE):
        early.append(asyncio.create_task(standings.of("a")))
        await turn()
    assert len(store.asked) == AT_ONCE
    store.versions["a"] = 2  # written, and somebody was told so, who now reads
    late = asyncio.create_task(standings.of("a"))
    await turn()
    assert len(store.asked) == AT_ONCE
    for _ in range(AT_ONCE):
        store.answer()
        await turn()
    store.answer()
    assert await asyncio.gather(*early) == [Standing("", "1")] * AT_ONCE
    assert await late == Standing("", "2")


async def test_an_error_reaches_everybody_and_the_next_read_is_a_new_one() -> None:
    store, standings = made()
    waiting = [asyncio.create_task(standings.of("a")) for _ in range(3)]
    await turn()
    store.answer(Unavailable("postgres", "no connection"))
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in found] == [Unavailable] * 3
    again = asyncio.create_task(standings.of("a"))
    await turn()
    store.answer()
    assert await again == Standing("", "1")


async def test_who_leaves_takes_nothing_from_the_others() -> None:
    store, standings = made()
    leaves, stays = (asyncio.create_task(standings.of("a")) for _ in range(2))
    await turn()
    leaves.cancel()
    await turn()
    store.answer()
    assert await stays == Standing("", "1")
    with pytest.raises(asyncio.CancelledError):
        await leaves


async def test_the_end_leaves_nobody_waiting() -> None:
    store, standings = made()
    waiting = []
    for _ in range(AT_ONCE + 1):
        waiting.append(asyncio.create_task(standings.of("a")))
        await turn()
    assert len(store.asked) == AT_ONCE
    await standings.close()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in found] == [asyncio.CancelledError] * (AT_ONCE + 1)


def test_what_is_kept_is_good_for_its_version_alone() -> None:
    kept: Kept[str] = Kept(2)
    kept.put("a", "1", "one")
    assert kept.get("a", "1") == "one"
    assert kept.get("a", "2") is None
    assert kept.get("b", "1") is None
    kept.put("a", "2", "two")
    assert kept.get("a", "1") is None
    kept.put("b", "1", "b")
    assert kept.get("a", "2") == "two"  # used last, so it stays
    kept.put("c", "1", "c")
    assert (kept.get("a", "2"), kept.get("b", "1"), kept.get("c", "1")) == ("two", None, "c")


async def test_who_waited_long_enough_is_sent_away_and_no_other() -> None:
    store = Store()
    standings = Standings(cast(StandingReader, cast(Any, store)), wait_s=0.1)
    busy = []
    for id_ in ("a", "b"):  # as many reads as there may be, and both hang
        busy.append(asyncio.create_task(standings.of(id_)))
        await turn()
    early = asyncio.create_task(standings.of("a"))
    await asyncio.sleep(0.06)
    late = asyncio.create_task(standings.of("a"))
    await asyncio.sleep(0.06)
    assert [task.done() for task in (*busy, early, late)] == [True, True, True, False]
    for task in (*busy, early):
        with pytest.raises(Unavailable, match=r"no answer within 0.1 s"):
            await task
    store.answer()
    await turn()
    store.answer()
    await turn()
    store.answer()
    assert await late == Standing("", "1")
    await standings.close()


async def test_the_last_one_is_sent_away_too() -> None:
    store = Store()
    standings = Standings(cast(StandingReader, cast(Any, store)), wait_s=0.05)
    waiting = [asyncio.create_task(standings.of("a"))]
    await asyncio.sleep(0.02)
    for id_ in ("b", "a"):
        waiting.append(asyncio.create_task(standings.of(id_)))
        await turn()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
    await standings.close()
