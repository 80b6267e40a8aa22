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
from daemon.sources.discovery_watch import DiscoveryWatch, by_user, changed
from daemon.sources.everyone import Everyone
from daemon.sources.inbox import Inbox
from daemon.sources.store_news import StoreNews
from daemon.sources.supervisor import Supervisor
from daemon.workqueue import WorkQueue
from tests.unit.daemon.system import C1, U1, U2, World, scenario
from tests.unit.daemon.virtual import LoopClock, run_virtual


class Scripted:
    """A source that does what its script says, one entry a start."""

    name = "scripted"

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
        ([], {U1, U2}),
    ],
)
def test_users_whose_instances_changed(after: list[ServiceInstance], expected: set[str]) -> None:
    before = by_user([instance(U1, "a"), instance(U2, "b")])
    assert changed(before, by_user(after)) == expected


def test_the_first_list_is_news_about_everybody_in_it() -> None:
    class Lists:
        async def watch(self) -> AsyncIterator[tuple[ServiceInstance, ...]]:
            yield (instance(U1, "a"), instance(U2, "b"))
            yield (instance(U1, "a"), instance(U2, "b", passing=False))

    async def main() -> None:
        queue = WorkQueue(LoopClock(), Random(1))
        source = DiscoveryWatch(cast(Discovery, Lists()), queue)
        await source.listen(lambda: None)
        assert {await queue.get(), await queue.get()} == {U1, U2}
        assert len(queue) == 0

    run_virtual(main())


class Spoken:
    """A listener that says what it is told to."""

    def __init__(self, *items: Item) -> None:
        self.items = items

    async def run(self, on_item: Callable[[Item], None]) -> None:
        for item in self.items:
            on_item(item)


@scenario
async def test_store_news_are_keys_and_a_reconnect_is_everybody(w: World) -> None:
    queue = WorkQueue(w.clock, Random(1))
    everyone = Everyone(w.store, queue, every_s=60)
    mailroom = Mailroom(w.store.waiting, w.store.mark_processed)
    everyone._wanted.clear()
    listener = cast(Listener, Spoken(News(INTENTS, U1)))
    await StoreNews(listener, queue, everyone, mailroom).listen(lambda: None)
    assert await queue.get() == U1
    assert U1 not in mailroom
    listener = cast(Listener, Spoken(News(INBOX, U2), Reconnected()))
    await StoreNews(listener, queue, everyone, mailroom).listen(lambda: None)
    assert await queue.get() == U2
    assert U2 in mailroom
    assert everyone._wanted.is_set()


@scenario
async def test_everybody_is_looked_at_at_start_after_a_relist_and_in_time_who_was_forgotten(w: World) -> None:
    queue = WorkQueue(w.clock, Random(1))
    everyone = Everyone(w.store, queue, every_s=60)
    w.store.add_chip(U1, C1)
    w.store.down = True
    one = Supervisor(everyone, w.clock, Random(1))
    running = asyncio.create_task(one.run())
    await asyncio.sleep(7)
    assert len(queue) == 0
    w.store.down = False
    await asyncio.sleep(6)  # what could not be listed is still wanted
    assert await queue.get() == U1
    queue.done(U1)
    everyone.relist()
    assert await queue.get() == U1
    queue.done(U1)
    started = w.clock.monotonic()
    assert await queue.get() == U1  # nobody said when to look again
    assert w.clock.monotonic() - started <= 121
    await asyncio.sleep(200)
    queue.put(U1, 500)
    queue.done(U1)
    await asyncio.sleep(200)
    assert len(queue) == 1  # somebody did: the gap is none
    assert queue._agenda.next_at() == pytest.approx(w.clock.monotonic() + 300, abs=1)
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
