"""Real agents of the sandbox: a Nomad server, and hosts that each run a Nomad and a Consul agent of their own."""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.agents.consul_agent import ConsulAgent
from sandbox.agents.nomad_agent import NomadAgent
from sandbox.agents.nomad_config import Host
from sandbox.up.data import DataFolder
from sandbox.up.plan import Plan, real_ports
from sandbox.up.supervisor import Child, Supervisor
from sandbox.up.together import together


class RealHosts:
    """Starts what a cluster of `plan.hosts` hosts needs. What it starts is ended by the supervisor.

    Host n stands at 127.0.0.<n>; the Consul agent of the first one is Consul's server. Names of the parts:
    `consul`, `nomad` (its server), then `nomad-1`, `consul-2`, `nomad-2` and so on, one part per process.
    """

    def __init__(
        self, plan: Plan, data: DataFolder, supervisor: Supervisor, task_env: Mapping[str, str]
    ) -> None:
        """`task_env`: what raw_exec tasks find in their environment; simulators learn of the sandbox so."""
        self._plan = plan
        self._data = data
        self._supervisor = supervisor
        self._task_env = task_env
        self._consul: dict[int, ConsulAgent] = {}
        self._nomad: list[NomadAgent] = []

    async def start(self, *, nomad_port: int, consul_port: int) -> None:
        """Return once every host takes jobs. `nomad_port`, `consul_port`: HTTP of the servers."""
        hosts = range(1, self._plan.hosts + 1)
        await together(
            self._supervisor.start(real_consul(self._data, consul_port, self._consul)),
            self._supervisor.start(self._nomad_server(nomad_port)),
        )
        await together(*(self._start_host(number) for number in hosts))

    async def _start_host(self, number: int) -> None:
        if number not in self._consul:
            await self._supervisor.start(self._consul_agent(number))
        await self._supervisor.start(self._nomad_host(number))

    def _consul_agent(self, number: int) -> Child:
        folder = self._data.path / f"consul-{number}"

        def launch() -> ConsulAgent:
            self._consul[number] = ConsulAgent.start(
                folder,
                node_name=f"host-{number}",
                address=f"127.0.0.{number}",
                join=self._consul[1].gossip,
            )
            return self._consul[number]

        return Child(name=f"consul-{number}", launch=launch, log=folder / "log")

    def _nomad_server(self, port: int) -> Child:
        folder = self._data.path / "nomad" / "server"

        def launch() -> NomadAgent:
            self._nomad[:] = [NomadAgent.start(folder, name="server", http_port=port)]
            return self._nomad[0]

        return Child(name="nomad", launch=launch, log=folder / "agent.log")

    def _nomad_host(self, number: int) -> Child:
        folder = self._data.path / "nomad" / f"host-{number}"

        def launch() -> _KeepsTasks:
            agent = NomadAgent.start(
                folder,
                name=f"host-{number}",
                address=f"127.0.0.{number}",
                join=self._nomad[0].rpc,
                host=Host(
                    ports=real_ports(self._plan.ports, number),
                    consul=self._consul[number].url.removeprefix("http://"),
                    driver=self._plan.driver.value,
                ),
                env=self._task_env,
            )
            return _KeepsTasks(agent)

        return Child(name=f"nomad-{number}", launch=launch, log=folder / "agent.log")


class _KeepsTasks:
    """A host's agent that ended unasked is started again above its tasks, as on a real host."""

    def __init__(self, agent: NomadAgent) -> None:
        self._agent = agent

    @property
    def pid(self) -> int:
        return self._agent.pid

    def exit_code(self) -> int | None:
        return self._agent.exit_code()

    def stop(self) -> None:
        # What nobody takes over any more is found by its mark when the sandbox ends.
        if self.exit_code() is None:
            self._agent.stop()

    def kill(self) -> None:
        self._agent.kill()


def real_consul(data: DataFolder, port: int, agents: dict[int, ConsulAgent]) -> Child:
    """Consul's server, on host 1. `agents` gets it at each start."""
    folder = data.path / "consul"

    def launch() -> ConsulAgent:
        agents[1] = ConsulAgent.start(folder, http_port=port, node_name="host-1")
        return agents[1]

    return Child(name="consul", launch=launch, log=folder / "log")
