"""Settings of the double. Every delay is in seconds and may be zero."""

from __future__ import annotations

import re

import msgspec

from sandbox.nomad_double.policy import PolicyError, parse_policy


class Delays(msgspec.Struct, frozen=True, kw_only=True):
    """How long the double takes for what a real cluster takes time for."""

    raft_s: float = 0.002
    """Between the check of a write and the write itself; the window in which `atomic_cas=False` races."""
    scheduling_s: float = 0.005
    """Between an evaluation becoming pending and its plan."""
    task_start_s: float = 0.02
    """Between "Task Setup" and the start of the task."""
    client_update_s: float = 0.05
    """A client gathers changes of its allocations this long before it reports them (0.2 s in Nomad)."""
    template_wait_s: float = 5.0
    """How long a changed variable must rest before its templates follow; the template's splay comes on top."""
    event_s: float = 0.0
    """Between a commit and its event on the stream."""
    service_retry_s: float = 1.0
    """Before a failed registration at Consul is tried again."""
    service_sync_s: float = 30.0
    """Between two full comparisons with Consul's agent."""

    @classmethod
    def none(cls) -> Delays:
        """No artificial delay at all, for benchmarks and tests."""
        return cls(raft_s=0.0, scheduling_s=0.0, task_start_s=0.0, client_update_s=0.0, template_wait_s=0.0)


class HeartbeatSettings(msgspec.Struct, frozen=True, kw_only=True):
    """When servers give a silent host up (Nomad's `server` block)."""

    min_ttl_s: float = 10.0
    """`min_heartbeat_ttl`, B: a client is granted a random TTL in [B, 2B]."""
    grace_s: float = 10.0
    """`heartbeat_grace`, on top of the TTL."""
    max_per_second: float = 50.0
    """`max_heartbeats_per_second`: with many hosts B grows to hosts / this."""


class HostSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One simulated host: a Nomad client with an address of its own."""

    name: str
    address: str
    min_dynamic_port: int = 3100
    max_dynamic_port: int = 3199
    reserved_ports: tuple[int, ...] = ()
    cpu_mhz: int = 40_000
    memory_mb: int = 65_536
    disk_mb: int = 200_000
    datacenter: str = "dc1"
    node_pool: str = "default"
    node_class: str = ""
    meta: dict[str, str] = {}
    max_kill_timeout_s: float = 60.0


class DoubleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be chosen about a double."""

    hosts: tuple[HostSettings, ...] = (HostSettings(name="host-1", address="127.0.0.1"),)
    namespaces: tuple[str, ...] = ("default",)
    delays: Delays = Delays()
    version: str = "1.10.5"
    """The release whose behaviour is reproduced and that is shown in agent/self and node attributes."""
    atomic_cas: bool = False
    """False: EnforceIndex races as in every release before 2.0.1. True: it is checked inside the write."""
    event_buffer_size: int = 100
    heartbeats: HeartbeatSettings = HeartbeatSettings()
    speed: float = 1.0
    """Durations of jobs (kill, restart and reschedule delays, disconnect, migrate) and of heartbeats and drains
    take this many times less than they say. Times that are shown stay those of the clock."""
    heartbeat_s: float = 30.0
    """Between two `{}` frames on a silent event stream."""
    tracked_versions: int = 6
    token: str = ""
    """Non-empty: ACLs are on, and this is the management token."""
    tokens: dict[str, tuple[str, ...]] = {}
    """Further tokens: the policies of each, in HCL. They count only while ACLs are on."""
    seed: int | None = None
    """Seed of every random choice (ports, ids, node order); None draws from the system."""

    @property
    def release(self) -> tuple[int, ...]:
        """`version` as numbers, for what differs between releases."""
        return tuple(int(part) for part in self.version.split("."))

    def problems(self) -> list[str]:
        """Every reason why these settings cannot work; empty when they can."""
        found = []
        names = [host.name for host in self.hosts]
        if not names:
            found.append("at least one host is needed")
        if len(set(names)) != len(names):
            found.append("host names must differ")
        if len({host.address for host in self.hosts}) != len(self.hosts):
            found.append("host addresses must differ")
        for host in self.hosts:
            if not 0 < host.min_dynamic_port <= host.max_dynamic_port <= 65535:
                found.append(
                    f"host {host.name}: the dynamic ports {host.min_dynamic_port}-{host.max_dynamic_port} "
                    "are not a range within 1-65535"
                )
        for policies in self.tokens.values():
            for text in policies:
                try:
                    parse_policy(text)
                except PolicyError as error:
                    found.append(f"a policy cannot be read: {error}")
        if self.tokens and not self.token:
            found.append("further tokens need a management token beside them")
        if "default" not in self.namespaces:
            found.append("the namespace default always exists and cannot be left out")
        if not re.fullmatch(r"\d+\.\d+\.\d+", self.version):
            found.append(f"{self.version} is no release of Nomad such as 1.10.5")
        if self.speed <= 0:
            found.append("the speed must be above zero")
        if self.event_buffer_size < 1:
            found.append("the event buffer needs room for one entry")
        return found


def simulated_hosts(
    count: int, *, min_dynamic_port: int = 3100, max_dynamic_port: int = 3199
) -> tuple[HostSettings, ...]:
    """`count` hosts on 127.0.0.1, 127.0.0.2, ...: on Linux all of 127/8 answers without configuration."""
    return tuple(
        HostSettings(
            name=f"host-{number}",
            address=f"127.0.0.{number}",
            min_dynamic_port=min_dynamic_port,
            max_dynamic_port=max_dynamic_port,
        )
        for number in range(1, count + 1)
    )
