"""A Nomad client: runs the allocations of one node and reports what became of them."""

from __future__ import annotations

import asyncio
import shutil
from typing import Protocol

import msgspec

from sandbox.nomad_double.alloc_runner import AllocRunner, ClientReport
from sandbox.nomad_double.client_heartbeat import ClientHeartbeat
from sandbox.nomad_double.commit import Commit
from sandbox.nomad_double.durations import iso_time
from sandbox.nomad_double.host_agent import HostAgent
from sandbox.nomad_double.model import Allocation, Node, TaskState
from sandbox.nomad_double.state import StateStore
from sandbox.nomad_double.task_runner import TaskContext


class Servers(Protocol):
    """The servers as a client knows them."""

    def client_update(self, node_id: str, reports: list[ClientReport]) -> None:
        """Take reports about allocations."""
        ...

    def beat(self, node_id: str) -> float:
        """Take a heartbeat; the TTL granted, in seconds."""
        ...


class Client:
    """The client of one node. It watches commits for its allocations, as a real one watches its servers."""

    def __init__(
        self, state: StateStore, node_id: str, context: TaskContext, servers: Servers, speed: float = 1.0
    ) -> None:
        self.agent = HostAgent()
        self._state = state
        self._node_id = node_id
        self._context = msgspec.structs.replace(context, agent=self.agent)
        self._servers = servers
        self._runners: dict[str, AllocRunner] = {}
        self._left_behind: dict[str, dict[str, TaskState]] = {}
        self._orphaned: list[str] = []
        self._dirty: dict[str, None] = {}
        self._flusher: asyncio.Task[None] | None = None
        self._stopping = False
        self._heartbeat = ClientHeartbeat(
            context.clock, self.agent, speed, lambda: servers.beat(node_id), self._silent_too_long
        )

    @property
    def node(self) -> Node | None:
        return self._state.nodes.get(self._node_id)

    def start(self) -> None:
        """Go on with what is placed here: after a restart the tasks are gone and are started anew, on their ports."""
        for alloc in self._state.allocs_of_node(self._node_id):
            self._look_at(alloc)
        self._heartbeat.start()

    def on_commit(self, commit: Commit) -> None:
        if self._stopping or not self.agent.reachable:
            return
        for alloc_id in commit.touched_allocs:
            alloc = self._state.allocs.get(alloc_id)
            if alloc is not None and alloc.node_id == self._node_id:
                self._look_at(alloc)
            elif alloc is None and alloc_id in self._runners:
                self._runners[alloc_id].stop()

    def runner(self, alloc_id: str) -> AllocRunner | None:
        return self._runners.get(alloc_id)

    def running_tasks(self, alloc_id: str) -> bool:
        """Does a task of the allocation run on this host, whatever the servers believe."""
        runner = self._runners.get(alloc_id)
        return runner is not None and runner.alive

    async def stop(self) -> None:
        """End every task of this client (its signal, its kill timeout, then SIGKILL) without reporting it.

        Nothing is reported, so that a double which goes on from the same data brings the tasks back.
        """
        self._stopping = True
        await self._heartbeat.end()
        if self._flusher is not None:
            self._flusher.cancel()
        self.agent.turn("up")
        for runner in self._runners.values():
            runner.stop()
        await asyncio.gather(*(runner.ended() for runner in list(self._runners.values())))

    # --- trouble with the host

    def cut_off(self) -> None:
        """No server is heard any more; the agent lives on and stops what must not outlive the silence."""
        self.agent.turn("cut off")

    def freeze(self) -> None:
        """SIGSTOP: tasks run on, and nobody looks after them."""
        self.agent.turn("frozen")

    def kill_agent(self) -> None:
        """The agent dies, its tasks run on; a new one takes them over when it comes `back`."""
        self.agent.turn("agent dead")
        self._heartbeat.kill()

    def kill_host(self) -> None:
        """The host dies: every task ends at once and nobody hears of it. Its Consul agent dies as well."""
        self.agent.turn("dead")
        self._heartbeat.kill()
        for alloc_id, runner in list(self._runners.items()):
            if not runner.done:
                self._left_behind[alloc_id] = runner.report().task_states
                self._orphaned += runner.registered
            runner.abandon()
        self._runners.clear()
        self._dirty.clear()
        self._host_is(alive=False)

    def back(self) -> None:
        """Whatever was wrong is over: the servers are heard, and what they decided meanwhile is done."""
        before, self.agent.state = self.agent.state, "up"
        if before == "up":
            return
        self.agent.turn("up")
        if before == "dead":
            self._host_is(alive=True)
        if before in ("agent dead", "dead"):
            for runner in self._runners.values():
                runner.taken_over()
                self._heartbeat.arm(runner.alloc)
            self._heartbeat.start()
        # The servers take reports of an allocation only from a node that they have heard.
        self._servers.beat(self._node_id)
        for alloc_id in self._runners:
            self._report(alloc_id)
        self._catch_up()

    def _host_is(self, *, alive: bool) -> None:
        registrar, node = self._context.registrar, self.node
        if registrar is None or node is None:
            return
        registrar.host_is(node.name, alive=alive)
        if alive:
            # What a Consul agent still knows from before its host died, and nobody runs any more.
            registrar.deregister(self._orphaned)
            self._orphaned = []

    def _catch_up(self) -> None:
        """See what the servers want of this node by now."""
        forgotten, self._left_behind = self._left_behind, {}
        over: list[ClientReport] = []
        for alloc in self._state.allocs_of_node(self._node_id):
            if alloc.id in forgotten and alloc.server_terminal:
                over.append(_ended(alloc, forgotten[alloc.id], self._context.clock.time_ns()))
            else:
                self._look_at(alloc)
        for alloc_id, runner in self._runners.items():
            if alloc_id not in self._state.allocs:
                runner.stop()
        if over:
            self._servers.client_update(self._node_id, over)

    def _silent_too_long(self, alloc_id: str) -> None:
        runner = self._runners.get(alloc_id)
        if runner is not None:
            runner.stop()

    # --- allocations

    def _look_at(self, alloc: Allocation) -> None:
        runner = self._runners.get(alloc.id)
        if runner is None:
            if alloc.client_terminal or self.node is None:
                return
            runner = AllocRunner(self._state, self._context, self.node, alloc, self._report, self._over)
            self._runners[alloc.id] = runner
            self._heartbeat.arm(alloc)
            runner.start()
        else:
            runner.update(alloc)
        if alloc.server_terminal:
            runner.stop()

    def _report(self, alloc_id: str) -> None:
        if self._stopping:
            return
        self._dirty[alloc_id] = None
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush_later())

    async def _flush_later(self) -> None:
        await self._context.clock.sleep(self._context.delays.client_update_s)
        while self._dirty:
            await self.agent.until_reachable()
            reports = [self._runners[i].report() for i in self._dirty if i in self._runners]
            self._dirty.clear()
            news = [report for report in reports if self._is_news(report)]
            if news:
                self._servers.client_update(self._node_id, news)

    def _is_news(self, report: ClientReport) -> bool:
        alloc = self._state.allocs.get(report.alloc_id)
        if alloc is None:
            return False
        known = alloc.deployment_status.healthy if alloc.deployment_status is not None else None
        same_status = alloc.client_status == report.client_status and report.healthy in (None, known)
        return not (same_status and alloc.task_states == report.task_states)

    def _over(self, alloc_id: str) -> None:
        """The runner has ended; keep it only while its last report is on the way."""
        self._heartbeat.disarm(alloc_id)
        if alloc_id not in self._state.allocs:
            self._runners.pop(alloc_id, None)
            shutil.rmtree(self._context.data_dir / "alloc" / alloc_id, ignore_errors=True)

    def forget(self, alloc_id: str) -> None:
        """Garbage collection of one terminal allocation and its files."""
        runner = self._runners.get(alloc_id)
        if runner is not None and not runner.done:
            return
        self._runners.pop(alloc_id, None)
        shutil.rmtree(self._context.data_dir / "alloc" / alloc_id, ignore_errors=True)


def _ended(alloc: Allocation, states: dict[str, TaskState], now_ns: int) -> ClientReport:
    """What a host that was away says of an allocation whose tasks died with it."""
    finished = iso_time(now_ns)
    dead = {
        name: msgspec.structs.replace(one, state="dead", finished_at=finished) for name, one in states.items()
    }
    return ClientReport(alloc.id, "complete", "All tasks have completed", dead)
