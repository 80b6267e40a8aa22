"""The queue in virtual time, and P9: it never runs a key twice at once and never loses one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from daemon.agenda import Agenda
from daemon.workqueue import QueueClosed, WorkQueue
from tests.scale import examples
from tests.unit.daemon.virtual import LoopClock, VirtualLoop, run_virtual


def queue(**options: float) -> WorkQueue:
    return WorkQueue(LoopClock(), Random(1), **options)


def timers() -> int:
    """How many callbacks the running loop has set for later."""
    loop: Any = asyncio.get_running_loop()
    return sum(not timer.cancelled() for timer in loop._scheduled)


def test_duplicates_merge() -> None:
    async def main() -> None:
        q = queue()
        for _ in range(3):
            q.put("a")
        assert await q.get() == "a"
        q.done("a")
        assert len(q) == 0

    run_virtual(main())


def test_a_key_under_work_is_run_once_more_when_it_became_dirty() -> None:
    async def main() -> None:
        q = queue()
        q.put("a")
        await q.get()
        q.put("a")
        q.put("a", 5.0)
        q.put("a")
        second = asyncio.create_task(q.get())
        await asyncio.sleep(1)
        assert not second.done()
        q.done("a")
        assert await second == "a"
        q.done("a")
        assert len(q) == 0

    run_virtual(main())


@pytest.mark.parametrize("delays", [(5.0, 2.0), (2.0, 5.0)])
def test_the_sooner_of_two_delays_counts(delays: tuple[float, float]) -> None:
    async def main() -> None:
        q = queue()
        for delay in delays:
            q.put("a", delay)
        await q.get()
        assert asyncio.get_running_loop().time() == pytest.approx(2.0)

    run_virtual(main())


def test_an_immediate_put_beats_a_delay_and_answers_it() -> None:
    async def main() -> None:
        q = queue()
        q.put("a", 10.0)
        waiting = asyncio.create_task(q.get())
        await asyncio.sleep(1)
        q.put("a")
        assert await waiting == "a"
        assert asyncio.get_running_loop().time() == pytest.approx(1.0)
        q.done("a")
        assert len(q) == 0

    run_virtual(main())


def test_a_delay_asked_for_during_work_counts_from_the_asking() -> None:
    async def main() -> None:
        q = queue()
        q.put("a")
        await q.get()
        q.put("a", 3.0)
        await asyncio.sleep(2)
        q.done("a")
        await q.get()
        assert asyncio.get_running_loop().time() == pytest.approx(3.0)

    run_virtual(main())


def test_failures_wait_longer_each_time_up_to_the_cap_and_success_resets() -> None:
    async def main() -> None:
        q = queue(base_s=1.0, cap_s=8.0)
        pauses = []
        for _ in range(8):
            pauses.append(q.put_failed("a"))
            await q.get()
            q.done("a")
        fulls = [1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0]
        assert all(full / 2 <= pause <= full for pause, full in zip(pauses, fulls, strict=True))
        assert len(set(pauses)) > 3  # jitter
        q.succeeded("a")
        assert q.put_failed("a") <= 1.0

    run_virtual(main())


def test_a_failure_waits_at_least_what_was_asked_for() -> None:
    async def main() -> None:
        assert queue(base_s=0.1).put_failed("a", least_s=7.0) == 7.0

    run_virtual(main())


def test_close_ends_waiting_and_later_gets() -> None:
    async def main() -> None:
        q = queue()
        waiting = asyncio.create_task(q.get())
        await asyncio.sleep(0)
        q.put("later", 5.0)
        q.close()
        with pytest.raises(QueueClosed):
            await waiting
        with pytest.raises(QueueClosed):
            await q.get()

    run_virtual(main())


def test_a_cancelled_get_takes_no_key_with_it() -> None:
    async def main() -> None:
        q = queue()
        waiting = asyncio.create_task(q.get())
        await asyncio.sleep(0)
        q.put("a")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await q.get() == "a"

    run_virtual(main())


def test_a_get_that_is_stopped_as_it_is_woken_leaves_the_key_to_another() -> None:
    async def main() -> None:
        q = queue()
        first, second = (asyncio.create_task(q.get()) for _ in range(2))
        await asyncio.sleep(0)
        q.put("a")  # wakes the first
        first.cancel()
        await asyncio.sleep(0)
        assert first.cancelled()
        await asyncio.sleep(0)
        assert second.done()
        assert await second == "a"

    run_virtual(main())


def test_a_get_that_was_stopped_just_before_is_not_woken() -> None:
    async def main() -> None:
        q = queue()
        first, second = (asyncio.create_task(q.get()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        q.put("a")
        assert await second == "a"
        assert first.cancelled()

    run_virtual(main())


def test_every_idle_worker_gets_one_of_several_keys_that_become_ready_together() -> None:
    async def main() -> None:
        q = queue()
        workers = [asyncio.create_task(q.get()) for _ in range(3)]
        await asyncio.sleep(0)
        for key in "abc":
            q.put(key, 2.0)
        assert sorted(await asyncio.gather(*workers)) == ["a", "b", "c"]
        assert asyncio.get_running_loop().time() == pytest.approx(2.0)

    run_virtual(main())


def test_one_alarm_serves_all_idle_workers_and_none_is_left_behind() -> None:
    async def main() -> None:
        q = queue()
        workers = [asyncio.create_task(q.get()) for _ in range(8)]
        await asyncio.sleep(0)
        for number in range(20):
            q.put(f"k{number}", 100.0 - number)
            await asyncio.sleep(0)
        assert timers() == 1
        q.close()
        assert {type(end) for end in await asyncio.gather(*workers, return_exceptions=True)} == {QueueClosed}
        assert timers() == 0
        assert asyncio.all_tasks() <= {asyncio.current_task()}

    run_virtual(main())


def test_the_last_get_that_is_stopped_takes_the_alarm_along() -> None:
    async def main() -> None:
        q = queue()
        q.put("a", 5.0)
        waiting = asyncio.create_task(q.get())
        await asyncio.sleep(1)
        waiting.cancel()
        await asyncio.wait([waiting])
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert await q.get() == "a"
        assert asyncio.get_running_loop().time() == pytest.approx(5.0)

    run_virtual(main())


def test_urgent_keys_pass_a_long_list_and_do_not_starve_it() -> None:
    agenda = Agenda()
    for number in range(10):
        agenda.put(f"bulk{number}", 0.0, 0.0, bulk=True)
    for number in range(8):
        agenda.put(f"urgent{number}", 0.0, 0.0)
    agenda.put("bulk9", 0.0, 0.0)  # somebody waits for it now
    taken = [agenda.take(0.0) for _ in range(11)]
    assert taken == [
        *["urgent0", "urgent1", "urgent2", "urgent3", "bulk0"],
        *["urgent4", "urgent5", "urgent6", "urgent7", "bulk1", "bulk9"],
    ]


def test_whoever_was_put_on_the_long_list_for_later_lets_urgent_keys_pass_when_its_time_comes() -> None:
    agenda = Agenda()
    agenda.put("routine", 5.0, 0.0, bulk=True)
    agenda.put("hurried", 9.0, 0.0, bulk=True)
    agenda.put("hurried", 5.0, 1.0)  # sooner, for somebody who waits
    agenda.put("planned", 5.0, 2.0)
    agenda.put("news", 6.0, 6.0)
    assert [agenda.take(6.0) for _ in range(5)] == ["news", "hurried", "planned", "routine", None]
    for key in ("news", "hurried", "planned", "routine"):
        agenda.done(key, 6.0)
    agenda.put("routine", 7.0, 6.0)  # what it was before is forgotten
    agenda.put("news", 8.0, 8.0)
    assert [agenda.take(8.0), agenda.take(8.0)] == ["news", "routine"]
    agenda.put("late", 8.0, 8.0, bulk=True)
    assert agenda.take(8.0) == "late"


def test_put_all_spreads() -> None:
    async def main() -> None:
        q = queue()
        q.put_all((f"k{n}" for n in range(50)), spread_s=60.0)
        times = []
        for _ in range(50):
            q.done(await q.get())
            times.append(asyncio.get_running_loop().time())
        assert times[0] < 10
        assert 50 < times[-1] <= 60

    run_virtual(main())


KEYS = st.sampled_from("abc")
WORKERS = 2


class QueueMachine(RuleBasedStateMachine):
    """Two workers on the queue; the model remembers for each key until when it has to be started."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.queue = WorkQueue(LoopClock(), Random(0), base_s=1.0, cap_s=4.0)
        self.owed: dict[str, float] = {}
        self.working: dict[str, asyncio.Future[None]] = {}
        self.problems: list[str] = []
        self.tasks = [self.loop.create_task(self.work()) for _ in range(WORKERS)]
        self.settle()

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(main)

    def settle(self) -> None:
        async def turns() -> None:
            for _ in range(20):
                await asyncio.sleep(0)

        self.run(turns())

    async def work(self) -> None:
        while True:
            key = await self.queue.get()
            if key in self.working:
                self.problems.append(f"{key} was taken twice")
            self.owed.pop(key, None)
            self.working[key] = self.loop.create_future()
            await self.working[key]
            del self.working[key]
            self.queue.done(key)

    def owe(self, key: str, at: float) -> None:
        self.owed[key] = min(at, self.owed.get(key, at))

    @rule(key=KEYS, delay=st.sampled_from([0.0, 0.5, 1.0, 3.0]), bulk=st.booleans())
    def put(self, key: str, delay: float, bulk: bool) -> None:
        async def act() -> None:
            self.queue.put(key, delay, bulk=bulk)

        self.owe(key, self.loop.time() + delay)
        self.run(act())
        self.settle()

    @rule(key=KEYS)
    def fail(self, key: str) -> None:
        async def act() -> float:
            return self.queue.put_failed(key)

        now = self.loop.time()
        self.owe(key, now + self.run(act()))
        self.settle()

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 2.5]))
    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))
        self.settle()

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        if self.working:
            self.working[data.draw(st.sampled_from(sorted(self.working)))].set_result(None)
            self.settle()

    @invariant()
    def never_twice_at_once(self) -> None:
        assert not self.problems

    @invariant()
    def nothing_overdue_while_a_worker_is_idle(self) -> None:
        if len(self.working) < WORKERS:
            overdue = {
                key
                for key, at in self.owed.items()
                if at <= self.loop.time() - 1e-6 and key not in self.working
            }
            assert not overdue

    @invariant()
    def nothing_lost(self) -> None:
        assert set(self.owed) - set(self.working) == set(self._known_to_queue()) - set(self.working)

    def _known_to_queue(self) -> set[str]:
        agenda = self.queue._agenda
        return {*agenda._due, *agenda._urgent, *agenda._bulk}

    def teardown(self) -> None:
        for _ in range(30):
            for ending in list(self.working.values()):
                ending.set_result(None)
            self.settle()
            self.run(asyncio.sleep(1.0))
            self.settle()
        lost = set(self.owed)
        for task in self.tasks:
            task.cancel()
        self.run(asyncio.wait(self.tasks))
        self.loop.close()
        assert not lost
        assert not self.problems


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=examples(80), stateful_step_count=30)


def test_of_several_news_the_newest_counts_and_those_that_come_during_the_work_are_kept_apart() -> None:
    agenda = Agenda()
    agenda.put("k", 10.0, 1.0)
    agenda.put("k", 4.0, 4.0, news_at=2.0)  # asked for again, for news of then
    assert agenda.take(4.0) == "k"
    assert agenda.news_at("k") == 2.0
    agenda.put("k", 6.0, 6.0)
    agenda.put("k", 7.0, 7.0, bulk=True)
    assert agenda.news_at("k") == 2.0
    assert agenda.keys() == frozenset()
    agenda.done("k", 8.0)
    assert agenda.keys() == {"k"}
    assert agenda.take(8.0) == "k"
    assert agenda.news_at("k") == 7.0
    agenda.done("k", 9.0)
    assert "k" not in agenda
    with pytest.raises(KeyError):
        agenda.news_at("k")
