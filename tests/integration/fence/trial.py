"""One trial: a fleet with a guard on each host and users on it, and hosts that fall silent one after another."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import msgspec
from cryptography.fernet import Fernet

from core.crypto import Sealer
from core.domain.chip_credentials import node_key
from core.domain.routes import ChipRoute, LabelWhy
from core.store.engine import engine_for
from core.store.interface import Lease
from sandbox.free_ports import free_port
from tests.contract.store.harness import PostgresHarness
from tests.integration.egress.process import GuardProcess, guard_process
from tests.integration.fence.api import Ways, api_process, ways_to
from tests.integration.fence.fleets import Fleet, job
from tests.integration.fence.judge import Judge, judging
from tests.integration.fence.mover import Mover, User

ROOT = Path(__file__).parents[3]
SECRET = "the secret of this trial, long enough"
# A tenth of what production has, with a clock of Nomad that runs twenty times faster: leases last so long that it is
# them that a second container waits for.
TTL_S = 9.0
SETTLED_S = 60.0


def margin_s(ttl_s: float) -> float:
    """As narrow as a guard starts with."""
    return 0.19 * ttl_s + 1.001


def renew_s(ttl_s: float) -> float:
    return (ttl_s - margin_s(ttl_s)) / 5


# What befalls the guard of the host whose agent is frozen.
FAULTS = ("cut", "guard frozen", "none", "late", "guard killed")


class Case(msgspec.Struct, frozen=True):
    """One user moved: the silence between both allocations at the SOCKS5 server.

    `waited_s`: from the move of the placement to the second one's login.
    """

    fault: str
    gap_s: float
    waited_s: float


class Trial:
    def __init__(
        self,
        fleet: Fleet,
        judge: Judge,
        ways: Ways,
        mover: Mover,
        nomad: httpx.AsyncClient,
        rng: random.Random,
        ttl_s: float,
    ) -> None:
        self.ttl_s = ttl_s
        self.renew_s = renew_s(ttl_s)
        self.fleet = fleet
        self.judge = judge
        self.ways = ways
        self.mover = mover
        self.nomad = nomad
        self.rng = rng
        self.nodes: dict[str, str] = {}
        self.guards: dict[str, GuardSlot] = {}
        self.cases: list[Case] = []

    # --- a host falls silent

    async def silence(self, fault: str, *, hurried: float = 0.7) -> None:
        """Freeze the agent of the host with most users, and wait until they all speak again from elsewhere.

        `hurried`: share of the users whose job somebody evaluates early, which makes Nomad place a second container
        without its wait: then the lease is all that is left.
        """
        users = list(self.mover.users.values())
        host = max(self.fleet.hosts, key=lambda name: sum(user.host == name for user in users))
        moving = [user for user in users if user.host == host]
        before = {user.user_id: user.current for user in moving}
        await asyncio.sleep(self.rng.uniform(0, 2 * self.renew_s))
        await asyncio.to_thread(self.fleet.freeze, host)
        guard, way = self.guards[host], self.ways.way(self.nodes[host])
        await asyncio.sleep(self.rng.uniform(0, 2 * self.renew_s))
        if fault == "cut":
            way.open.clear()
        elif fault == "late":
            way.late_s = self.renew_s
        elif fault == "guard frozen":
            guard.freeze()
        elif fault == "guard killed":
            await guard.kill()
        hurrying = [asyncio.create_task(self._hurry(user)) for user in moving if self.rng.random() < hurried]
        try:
            if fault.startswith("guard"):
                # It is back in the middle of it all.
                await asyncio.sleep(self.rng.uniform(0, self.ttl_s))
                await guard.back()
            await self.moved(moving, before, fault)
        finally:
            way.open.set()
            way.late_s = 0.0
            await guard.back()
            await asyncio.to_thread(self.fleet.thaw, host)
            for task in hurrying:
                task.cancel()
            await asyncio.gather(*hurrying, return_exceptions=True)
        await self._ready(host)

    async def drain(self) -> None:
        """A planned move of all users of one host: the old container ends before the new one begins."""
        users = list(self.mover.users.values())
        host = max(self.fleet.hosts, key=lambda name: sum(user.host == name for user in users))
        moving = [user for user in users if user.host == host]
        before = {user.user_id: user.current for user in moving}
        path = f"/v1/node/{self.nodes[host]}/drain"
        (await self.nomad.put(path, json={"DrainSpec": {"Deadline": 10**12}})).raise_for_status()
        try:
            await self.moved(moving, before, "drain")
        finally:
            await self.nomad.put(path, json={"DrainSpec": None, "MarkEligible": True})
        await self._ready(host)

    async def moved(self, moving: list[User], before: dict[str, str | None], fault: str) -> None:
        """Until everybody in `moving` is heard from its new allocation; notes the cases."""
        waiting = {user.user_id: user for user in moving}
        try:
            await self._all_heard(waiting, before, fault)
        except TimeoutError:
            raise AssertionError(f"{fault}: {len(waiting)} still wait\n{await self.told()}") from None

    async def _all_heard(self, waiting: dict[str, User], before: dict[str, str | None], fault: str) -> None:
        async with asyncio.timeout(SETTLED_S):
            while waiting:
                await asyncio.sleep(0.05)
                for user in list(waiting.values()):
                    spell = self.judge.last(user.user_id)
                    if user.current == before[user.user_id] or spell is None or not spell.heard:
                        continue
                    if spell.allocation == user.current:
                        del waiting[user.user_id]
                        old = self.judge.spells[user.user_id][-2]
                        self.cases.append(Case(fault, spell.began - old.ended, spell.began - user.moved_at))

    async def _hurry(self, user: User) -> None:
        current = user.current
        await asyncio.sleep(self.rng.uniform(0, 4))
        while user.current == current:
            await self.nomad.put(f"/v1/job/{user.job_id}/evaluate", json={"JobID": user.job_id})
            await asyncio.sleep(self.rng.uniform(0.3, 1))

    async def _ready(self, host: str) -> None:
        async with asyncio.timeout(SETTLED_S):
            while True:
                node = (await self.nomad.get(f"/v1/node/{self.nodes[host]}")).json()
                if node["Status"] == "ready" and node["SchedulingEligibility"] == "eligible":
                    return
                await asyncio.sleep(0.1)

    # --- its beginning

    async def begin(self, harness: PostgresHarness, users: int) -> None:
        guards = {host: slot.listen for host, slot in self.guards.items()}
        for _ in range(users):
            user_id = await harness.user()
            chip_id = await harness.chip(user_id)
            lease = await harness.store.claim(user_id, "mover", 3600)
            assert isinstance(lease, Lease)
            await harness.wish(chip_id, "connected")
            assert isinstance(await harness.store.assign_label(lease, chip_id, LabelWhy.FIRST), ChipRoute)
            user = self.mover.users[user_id] = User(user_id, chip_id, lease)
            env = {
                "PYTHONPATH": str(ROOT),
                "SECRET": SECRET,
                "CHIP_ID": chip_id,
                "USER_ID": user_id,
                "GUARDS": msgspec.json.encode(guards).decode(),
            }
            reply = await self.nomad.put("/v1/jobs", json={"Job": job(user.job_id, env, self.fleet)})
            assert reply.status_code == 200, reply.text
        try:
            async with asyncio.timeout(SETTLED_S):
                while not all(map(self.judge.last, self.mover.users)):  # noqa: ASYNC110 - of other processes
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(await self.told()) from None

    async def told(self) -> str:
        """Where everybody is, for who reads why nothing moves."""
        lines = []
        for allocation in (await self.nomad.get("/v1/allocations", params={"task_states": "true"})).json():
            events = [
                event.get("DisplayMessage") or event["Type"]
                for task in (allocation["TaskStates"] or {}).values()
                for event in task["Events"]
            ]
            lines.append(
                f"{allocation['ID'][:8]} {allocation['JobID'][:13]} {allocation['NodeName']} "
                f"{allocation['DesiredStatus']} {allocation['ClientStatus']}: {events[-3:]}"
            )
        for user in self.mover.users.values():
            spells = [spell.allocation[:8] for spell in self.judge.spells.get(user.user_id, ())]
            lines.append(f"{user.job_id[:13]} current {str(user.current)[:8]} on {user.host}, heard {spells}")
        return "\n".join(lines)

    async def end(self) -> None:
        for user in self.mover.users.values():
            await self.nomad.delete(f"/v1/job/{user.job_id}", params={"purge": "true"})


class GuardSlot:
    """The guard of one host, which may be frozen, killed and started again."""

    def __init__(self, node_id: str, url: str, log: Path, ttl_s: float) -> None:
        self._times = {
            "TTL_S": f"{ttl_s}",
            "MARGIN_S": f"{margin_s(ttl_s):.3f}",
            "RENEW_S": f"{renew_s(ttl_s):.3f}",
        }
        self.listen = f"127.0.0.1:{free_port()}"
        self._node_id = node_id
        self._url = url
        self._log = log
        self._stack = AsyncExitStack()
        self._guard: GuardProcess | None = None
        self._frozen = False

    async def start(self) -> None:
        self._guard = await self._stack.enter_async_context(
            guard_process(
                self._url,
                self._log,
                NODE_ID=self._node_id,
                KEY=node_key(SECRET.encode(), self._node_id).hex(),
                LISTEN=self.listen,
                **self._times,
            )
        )

    def freeze(self) -> None:
        assert self._guard is not None
        self._guard.freeze()
        self._frozen = True

    async def kill(self) -> None:
        assert self._guard is not None
        await self._guard.kill()
        await self.stop()

    async def back(self) -> None:
        """It runs again, whatever befell it."""
        if self._frozen and self._guard is not None:
            with contextlib.suppress(ProcessLookupError):  # its watchdog has ended it
                self._guard.thaw()
            await asyncio.sleep(0.1)
            if self._guard.process.returncode is not None:
                await self.stop()
        if self._guard is None:
            await self.start()
        self._frozen = False

    async def stop(self) -> None:
        self._guard = None
        await self._stack.aclose()


@asynccontextmanager
async def trial(
    fleet: Fleet,
    database_url: str,
    folder: Path,
    users: int,
    seed: int,
    *,
    ttl_s: float = TTL_S,
    frees_lost: bool = False,
) -> AsyncIterator[Trial]:
    rng = random.Random(seed)
    engine = engine_for(database_url, pool_size=10)
    harness = PostgresHarness(engine)
    key = Fernet.generate_key().decode()
    harness.sealer = Sealer((key,))
    settings = {
        "WAHAFLEET_DATABASE_URL": database_url,
        "WAHAFLEET_SECRET_KEYS": key,
        "JWT_SECRET_KEY": SECRET,
        "WAHAFLEET_EGRESS": "guard",
        "WAHAFLEET_GUARD_SECRET": SECRET,
        "WAHAFLEET_GUARD_TTL_S": f"{ttl_s}",
        "WAHAFLEET_GUARD_MARGIN_S": f"{margin_s(ttl_s):.3f}",
        "WAHAFLEET_GUARD_RENEW_S": f"{renew_s(ttl_s):.3f}",
    }
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.dispose)
        judge = await stack.enter_async_context(judging())
        await harness.provider("local")
        await harness.change_provider("local", host="127.0.0.1", port=judge.port)
        await harness.sub_user("local", "ana")
        api = await stack.enter_async_context(api_process(folder / "api.log", settings))
        ways, url = await stack.enter_async_context(ways_to(api, rng))
        nomad = await stack.enter_async_context(
            httpx.AsyncClient(base_url=fleet.url, trust_env=False, timeout=30)
        )
        mover = Mover(harness, nomad, rng, late_s=0 if frees_lost else 1, frees_lost=frees_lost)
        made = Trial(fleet, judge, ways, mover, nomad, rng, ttl_s)
        async with asyncio.timeout(SETTLED_S):
            while len(made.nodes) < len(fleet.hosts):
                nodes = (await nomad.get("/v1/nodes")).json()
                made.nodes = {node["Name"]: node["ID"] for node in nodes if node["Status"] == "ready"}
                await asyncio.sleep(0.1)
        for host in fleet.hosts:
            slot = made.guards[host] = GuardSlot(made.nodes[host], url, folder / f"guard-{host}.log", ttl_s)
            stack.push_async_callback(slot.stop)
        await asyncio.gather(*(slot.start() for slot in made.guards.values()))
        try:
            async with asyncio.TaskGroup() as tasks:
                moving = tasks.create_task(mover.run())
                await made.begin(harness, users)
                yield made
                moving.cancel()
            assert ways.statuses <= {200, 204, 503}
            # Wherever its container ran, each user had one label all the time.
            assert {len(names) for names in judge.names.values()} == {1}
            assert len(set().union(*judge.names.values())) == users
        finally:
            await made.end()


def distribution(cases: list[Case]) -> str:
    """Of the silence between two allocations, in seconds, by what befell the guard."""
    lines = []
    for fault in dict.fromkeys(case.fault for case in cases):
        gaps = sorted(case.gap_s for case in cases if case.fault == fault)
        at = [gaps[min(len(gaps) - 1, int(share * len(gaps)))] for share in (0, 0.25, 0.5, 0.75, 1)]
        told = " ".join(f"{gap:.3f}" for gap in at)
        lines.append(f"{fault:13} {len(gaps):4} cases, gap in s (least, quarters, most): {told}")
    return "\n".join(lines)
