"""A double of HashiCorp Nomad: its HTTP API, scheduler and clients for simulated hosts, in one process.

It behaves as Nomad 1.10.5 does wherever wahafleet looks (tests/contract/nomad compares the two), keeps its state
on disk, runs tasks as real processes or as programs of this process, and registers services at Consul.
"""

from sandbox.nomad_double.double import LoggedWrite, NomadDouble
from sandbox.nomad_double.drivers import InlineDriver, InlineProgram, ProcessDriver, TaskDriver, TaskSpec
from sandbox.nomad_double.registrar import HttpServiceRegistrar, NullServiceRegistrar, ServiceRegistrar
from sandbox.nomad_double.running import RunningDouble, running_nomad_double
from sandbox.nomad_double.settings import (
    Delays,
    DoubleSettings,
    HeartbeatSettings,
    HostSettings,
    simulated_hosts,
)

__all__ = [
    "Delays",
    "DoubleSettings",
    "HeartbeatSettings",
    "HostSettings",
    "HttpServiceRegistrar",
    "InlineDriver",
    "InlineProgram",
    "LoggedWrite",
    "NomadDouble",
    "NullServiceRegistrar",
    "ProcessDriver",
    "RunningDouble",
    "ServiceRegistrar",
    "TaskDriver",
    "TaskSpec",
    "running_nomad_double",
    "simulated_hosts",
]
