"""P3 on the real passes: killed at any step, started again by somebody else, the same end."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain.desired import Wanted
from core.domain.facts import ClientStatus
from daemon.announce import Step
from tests.scale import examples
from tests.unit.daemon.system import C1, U1, Daemon, World, scenario


class KilledError(BaseException):
    """SIGKILL: nothing of the process runs any more."""


class KillAt:
    """Ends the process at the n-th step that it announces."""

    def __init__(self, n: int) -> None:
        self.left = n
        self.dead = False
        self.seen: Counter[str] = Counter()

    def announce(self, step: Step, key: str, detail: str = "", /) -> None:
        self.seen[step.value] += 1
        self.left -= 1
        if self.dead or self.left == 0:
            self.dead = True
            raise KilledError


async def passes(w: World, daemon: Daemon, done: object, limit: int = 400) -> bool:
    """Run passes until `done`; False when the process was killed."""
    assert callable(done)
    for _ in range(limit):
        if done():
            return True
        try:
            await daemon.one_pass()
        except KilledError:
            return False
        await asyncio.sleep(0.5)
    raise AssertionError(f"no end: {w.phase()} {w.store.containers.get(U1)}")


class DeadStore:
    """The store as a killed process sees it: nothing that it would still do gets there."""

    def __init__(self, w: World, steps: KillAt) -> None:
        self._store, self._steps = w.store, steps

    def __getattr__(self, name: str) -> object:
        if self._steps.dead:
            raise KilledError
        return getattr(self._store, name)


@given(first=st.integers(1, 40), second=st.integers(1, 40))
@settings(max_examples=examples(60))
def test_killed_anywhere_twice_it_ends_the_same(first: int, second: int) -> None:
    @scenario
    async def main(w: World) -> None:
        for n, wanted in ((first, "qr"), (second, "gone")):

            def done(wanted: str = wanted) -> bool:
                return w.phase() == ("qr", None) if wanted == "qr" else w.nothing_left()

            if wanted == "qr":
                w.store.add_chip(U1, C1)
            elif w.store.chip(C1) is not None:
                w.store.wish(C1, Wanted.DELETED)
            steps = KillAt(n)
            # Time in which nobody works must not use up the time for logging out.
            patience: dict[str, Any] = {"teardown_deadline_s": 600.0}
            store = DeadStore(w, steps)
            killed = Daemon(w, owner=f"killed{n}", steps=steps, store=store, **patience)  # type: ignore[arg-type]
            if not await passes(w, killed, done):
                await asyncio.sleep(60)  # its lease runs out
                assert await passes(w, Daemon(w, owner=f"after{n}", **patience), done)
            if wanted == "qr":
                # The next daemon finds what was sent and not booked: the spec hash stands in the job itself.
                assert w.faults.calls.count("nomad.register") == 1
                alive = [a for a in w.nomad.allocs[w.job()] if a.client is ClientStatus.RUNNING]
                assert len(alive) == 1
                assert w.waha.sessions[U1][f"chip_{C1}"].starts == 1
        assert w.store.ledger == {}

    main()


@scenario
async def test_every_kind_of_step_is_announced(w: World) -> None:
    steps = KillAt(10_000)
    daemon = Daemon(w, steps=steps)
    w.store.add_chip(U1, C1)
    await passes(w, daemon, lambda: w.phase() == ("qr", None))
    assert set(steps.seen) == {step.value for step in Step}


class KillAtEffect(KillAt):
    """Ends the process when it announces that an effect was done, before it is recorded anywhere."""

    def __init__(self, effect: str) -> None:
        super().__init__(10_000)
        self._effect = effect

    def announce(self, step: Step, key: str, detail: str = "", /) -> None:
        if step is Step.EFFECT_DONE and detail == self._effect:
            self.left = 1
        super().announce(step, key, detail)


@scenario
async def test_after_a_kill_right_behind_the_purge_nobody_waits_for_a_container_that_was_seen_to_end(
    w: World,
) -> None:
    w.store.add_chip(U1, C1)
    await passes(w, Daemon(w), lambda: w.phase() == ("qr", None))
    w.store.wish(C1, Wanted.DELETED)
    steps = KillAtEffect("PurgeJob")
    store = DeadStore(w, steps)
    assert not await passes(w, Daemon(w, owner="killed", steps=steps, store=store), w.nothing_left)  # type: ignore[arg-type]
    assert w.store.containers[U1].phase == "stopping"
    await asyncio.sleep(60)  # its lease runs out
    # As often as what is left takes: a vanished placement would be given minutes.
    assert await passes(w, Daemon(w, owner="after"), w.nothing_left, limit=8)


class FrozenWhileItWrites:
    """The store of a daemon that stands still, for longer than a pass may take, right when it notes a purge."""

    def __init__(self, w: World) -> None:
        self._store = w.store

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def record_registered(self, *args: Any) -> None:
        await self._store.record_registered(*args)
        await asyncio.sleep(55)


@scenario
async def test_what_was_allowed_before_a_freeze_is_not_sent_after_it(w: World) -> None:
    w.store.add_chip(U1, C1)
    await passes(w, Daemon(w), lambda: w.phase() == ("qr", None))
    w.store.wish(C1, Wanted.DELETED)
    store = FrozenWhileItWrites(w)
    frozen = Daemon(w, owner="frozen", store=store)  # type: ignore[arg-type]
    while w.store.containers[U1].registered is not None:
        await frozen.one_pass()
        await asyncio.sleep(0.5)
    assert w.faults.count("nomad.purge") == 0
    assert await passes(w, Daemon(w, owner="after"), w.nothing_left)
