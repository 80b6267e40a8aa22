"""Sources: what each turns into keys, and that a broken one comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import cast

import pytest
from structlog.testing import capture_logs

from core.clients.discovery import Discovery
from core.domain.facts import ServiceInstance
from core.errors import Unavailable
from core.store.notify import INBOX, INTENTS, Item, Listener, News, Reconnected
from daemon.mail import Mailroom
from daemon.sources.discovery_watch import DiscoveryWatch, changed
from daemon.sources.inbox import Inbox
from daemon.sources.store_news import StoreNews
from daemon.sources.supervisor import Supervisor
from daemon.workqueue import WorkQueue
from tests.unit.daemon.system import U1, U2, World, scenario
from tests.unit.daemon.virtual import LoopClock, run_virtual


class Scripted:
    """A source that does what its script says, one entry a start."""

    name = "scripted"
    quiet_s = 20.0

    def __init__(self, *script: Exception | float | None) -> None:
        self.script = list(script)
        self.starts: list[float] = []

    async def listen(self, alive: Callable[[], None]) -> None:
        self.starts.append(asyncio.get_running_loop().time())
        step = self.script.pop(0) if self.script else 1e9
        if isinstance(step, Exception):
            raise step
        if step is not None:
            alive()
            await asyncio.sleep(step)


class Untidy(Scripted):
    """One whose cleaning up fails when it is told to end."""

    async def listen(self, alive: Callable[[], None]) -> None:
        try:
            await super().listen(alive)
        except asyncio.CancelledError:
            raise self.ends_with from None

    ends_with: Exception = RuntimeError("bug")


@pytest.mark.parametrize("ends_with", [RuntimeError("bug"), Unavailable("postgres", "away")], ids=str)
def test_a_source_that_is_told_to_end_ends_whatever_its_cleaning_up_raises(ends_with: Exception) -> None:
    async def main() -> None:
        source = Untidy()
        source.ends_with = ends_with
        running = asyncio.create_task(Supervisor(source, LoopClock(), Random(1)).run())
        await asyncio.sleep(1)
        running.cancel()
        await asyncio.wait([running], timeout=60)
        assert running.cancelled()
        assert len(source.starts) == 1

    run_virtual(main())


def test_a_source_that_breaks_or_ends_is_started_again_and_told_once_an_outage() -> None:
    async def main() -> None:
        source = Scripted(*[Unavailable("nomad", "away")] * 5, 10.0, RuntimeError("bug"), None)
        one = Supervisor(source, LoopClock(), Random(1))
        with capture_logs() as logs:
            running = asyncio.create_task(one.run())
            await asyncio.sleep(100)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        told = [line["event"] for line in logs]
        # The end of the tenth-second run starts a new outage, whose first line is that end itself.
        assert told == [
            "source_interrupted",
            "source_resumed",
            "source_ended",
            "source_ended",
            "source_resumed",
        ]
        assert len(source.starts) == 9
        assert one.restarts == 8
        assert not one.away
        pauses = [b - a for a, b in zip(source.starts, source.starts[1:], strict=False)]
        assert pauses[0] <= 0.2
        assert max(pauses[:5]) <= 5

    run_virtual(main())


def test_the_age_of_a_source_is_since_its_last_sign_of_life() -> None:
    async def main() -> None:
        one = Supervisor(Scripted(1e6), LoopClock(), Random(1))
        assert one.age_s() is None
        running = asyncio.create_task(one.run())
        await asyncio.sleep(30)
        assert one.age_s() == pytest.approx(30)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_virtual(main())


def instance(user: str, allocation: str, *, passing: bool = True, port: int = 3100) -> ServiceInstance:
    return ServiceInstance(f"_nomad-task-{allocation}", user, allocation, "10.0.0.1", port, passing)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ([instance(U1, "a"), instance(U2, "b")], set()),
        ([instance(U2, "b"), instance(U1, "a")], set()),
        ([instance(U1, "a", passing=False), instance(U2, "b")], {U1}),
        ([instance(U1, "a", port=3101), instance(U2, "b")], {U1}),
        ([instance(U1, "a"), instance(U1, "c"), instance(U2, "b")], {U1}),
        ([instance(U2, "b")], {U1}),
        ([instance(U1, "a"), instance(U2, "b"), instance(U2, "c", passing=False)], set()),
        ([], {U1, U2}),
    ],
)
def test_users_whose_instances_changed(after: list[ServiceInstance], expected: set[str]) -> None:
    before = [instance(U1, "a"), instance(U2, "b")]
    assert set(changed(before, after)) == expected


class Asked:
    """Remembers what it was asked to list again."""

    def __init__(self) -> None:
        self.relists: list[bool] = []

    def relist(self, *, takeover: bool = False) -> None:
        self.relists.append(takeover)


def test_the_first_list_asks_for_a_sweep_and_each_later_one_is_news_of_what_changed() -> None:
    class Lists:
        async def watch(self) -> AsyncIterator[tuple[ServiceInstance, ...]]:
            yield (instance(U1, "a"), instance(U2, "b"))
            yield (instance(U1, "a"), instance(U2, "b"))
            yield (instance(U1, "a"), instance(U2, "b", passing=False))

    async def main() -> None:
        queue, asked = WorkQueue(LoopClock(), Random(1)), Asked()
        source = DiscoveryWatch(cast(Discovery, Lists()), queue, asked)
        signs: list[None] = []
        await source.listen(lambda: signs.append(None))
        assert asked.relists == [False]
        assert len(signs) == 3
        assert await queue.get() == U2
        assert len(queue) == 0

    run_virtual(main())


class Spoken:
    """A listener that says what it is told to, then holds its connection for a while."""

    is_listening = True

    def __init__(self, *items: Item, holds_s: float = 0.0) -> None:
        self.items = items
        self.holds_s = holds_s

    async def run(self, on_item: Callable[[Item], None]) -> None:
        for item in self.items:
            on_item(item)
        await asyncio.sleep(self.holds_s)


@scenario
async def test_store_news_are_keys_and_a_reconnect_asks_for_a_sweep(w: World) -> None:
    queue, asked = WorkQueue(w.clock, Random(1)), Asked()
    mailroom = Mailroom(w.store.waiting, w.store.mark_processed)
    listener = cast(Listener, Spoken(News(INTENTS, U1)))
    await StoreNews(listener, queue, asked, mailroom, w.clock).listen(lambda: None)
    assert await queue.get() == U1
    assert U1 not in mailroom
    listener = cast(Listener, Spoken(News(INBOX, U2), Reconnected()))
    await StoreNews(listener, queue, asked, mailroom, w.clock).listen(lambda: None)
    assert await queue.get() == U2
    assert U2 in mailroom
    assert asked.relists == [False]


@scenario
async def test_a_daemon_that_has_started_is_a_reason_to_take_over_what_another_had_in_mind(w: World) -> None:
    queue, asked = WorkQueue(w.clock, Random(1)), Asked()
    mailroom = Mailroom(w.store.waiting, w.store.mark_processed)
    listener = cast(Listener, Spoken(News(INTENTS, "fleet")))
    await StoreNews(listener, queue, asked, mailroom, w.clock).listen(lambda: None)
    assert asked.relists == [True]
    assert len(queue) == 0


@scenario
async def test_a_quiet_store_is_alive_as_long_as_its_connection_answers(w: World) -> None:
    queue, mailroom = WorkQueue(w.clock, Random(1)), Mailroom(w.store.waiting, w.store.mark_processed)
    spoken = Spoken(holds_s=1e6)
    one = Supervisor(StoreNews(cast(Listener, spoken), queue, Asked(), mailroom, w.clock), w.clock, Random(1))
    assert one.too_old  # never heard of
    running = asyncio.create_task(one.run())
    await asyncio.sleep(300)
    assert not one.too_old
    spoken.is_listening = False  # type: ignore[unreachable]
    await asyncio.sleep(25)
    assert one.too_old
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@scenario
async def test_mail_that_arrives_during_a_look_is_not_answered_by_it(w: World) -> None:
    mailroom = Mailroom(w.store.waiting, w.store.mark_processed)
    assert await mailroom.before_look(U1) is None
    w.store.send_mail(U1)
    assert await mailroom.before_look(U1) is None  # nobody said that there is any: the inbox source will
    mailroom.expect(U1)
    up_to = await mailroom.before_look(U1)
    assert up_to is not None
    await asyncio.sleep(1)
    w.store.send_mail(U1)
    await mailroom.answered(U1, up_to)
    assert U1 in w.store.mail


@scenario
async def test_mail_stays_expected_when_the_inbox_cannot_be_read(w: World) -> None:
    mailroom = Mailroom(w.store.waiting, w.store.mark_processed)
    mailroom.expect(U1)
    w.store.down = True
    with pytest.raises(Unavailable):
        await mailroom.before_look(U1)
    assert U1 in mailroom


def test_old_webhooks_are_removed_in_turns_and_seldom_once_none_are_left() -> None:
    async def main() -> None:
        found = [5000, 5000, 12]
        purged: list[float] = []

        async def purge() -> int:
            purged.append(asyncio.get_running_loop().time())
            return found.pop(0) if found else 0

        async def empty() -> tuple[()]:
            return ()

        async def tick(_user_id: str, _up_to: object) -> int:
            return 0

        clock = LoopClock()
        source = Inbox(Mailroom(empty, tick), WorkQueue(clock, Random(1)), clock, purge)
        began = asyncio.get_running_loop().time()
        listening = asyncio.create_task(source.listen(lambda: None))
        await asyncio.sleep(1300)
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening
        assert [round(at - began) for at in purged] == [0, 5, 10, 15, 615, 1215]

    run_virtual(main())
