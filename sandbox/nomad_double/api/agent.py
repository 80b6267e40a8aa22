"""What the agent says of itself and its cluster, and the double's own routes."""

from __future__ import annotations

import msgspec

from sandbox.nomad_double.api.web import Reply, Request, not_found, read_reply
from sandbox.nomad_double.double import NomadDouble
from sandbox.nomad_double.model import Json

RPC_ADDRESS = "127.0.0.1:4647"


class AgentRoutes:
    """Handlers of /v1/agent, /v1/status, /v1/system, /v1/namespaces and the like."""

    def __init__(self, double: NomadDouble) -> None:
        self._double = double

    async def root(self, request: Request) -> Reply:
        """A browser is sent to the user interface, which the double does not have."""
        request.allow("GET")
        headers = {"Location": "/ui/", "Content-Type": "text/html; charset=utf-8"}
        return Reply(status=307, raw=b'<a href="/ui/">Temporary Redirect</a>.\n\n', headers=headers)

    async def self_(self, request: Request) -> Reply:
        request.allow("GET")
        settings = self._double.settings
        first = settings.hosts[0]
        config = {
            "ACL": {"Enabled": bool(settings.token)},
            "BindAddr": "127.0.0.1",
            "Client": {
                "Enabled": True,
                "MinDynamicPort": first.min_dynamic_port,
                "MaxDynamicPort": first.max_dynamic_port,
                "MaxKillTimeout": f"{first.max_kill_timeout_s:g}s",
                "NetworkInterface": "lo",
                "Meta": first.meta,
                "NodePool": first.node_pool,
            },
            "DataDir": str(self._double.data_dir),
            "Datacenter": first.datacenter,
            "DevMode": False,
            "DisableUpdateCheck": True,
            "NodeName": first.name,
            "Region": "global",
            "Server": {
                "Enabled": True,
                "BootstrapExpect": 1,
                "EnableEventBroker": True,
                "EventBufferSize": settings.event_buffer_size,
                "JobTrackedVersions": settings.tracked_versions,
                "JobMaxSourceSize": "1M",
            },
            "Version": {
                "BuildDate": None,
                "Revision": "",
                "Version": settings.version,
                "VersionMetadata": "double",
                "VersionPrerelease": "",
            },
        }
        stats = {
            "nomad": {"server": "true", "leader": "true", "leader_addr": RPC_ADDRESS, "bootstrap": "true"},
            "raft": {"state": "Leader", "applied_index": str(self._double.state.index)},
        }
        return Reply({"config": config, "member": self._member(), "stats": stats})

    async def members(self, request: Request) -> Reply:
        request.allow("GET")
        name = self._double.settings.hosts[0].name
        return Reply(
            {"ServerName": name, "ServerRegion": "global", "ServerDC": "dc1", "Members": [self._member()]}
        )

    async def health(self, request: Request) -> Reply:
        request.allow("GET")
        good = {"message": "ok", "ok": True}
        return Reply({"client": good, "server": good})

    async def leader(self, request: Request) -> Reply:
        request.allow("GET")
        return Reply(RPC_ADDRESS)

    async def peers(self, request: Request) -> Reply:
        request.allow("GET")
        return Reply([RPC_ADDRESS])

    async def regions(self, request: Request) -> Reply:
        request.allow("GET")
        return Reply(["global"])

    async def collect_garbage(self, request: Request) -> Reply:
        request.allow("PUT", "POST")
        self._double.collect_garbage()
        return Reply()

    async def namespaces(self, request: Request) -> Reply:
        request.allow("GET")
        return read_reply(
            1,
            [
                _namespace(name)
                for name in sorted(self._double.settings.namespaces)
                if request.rights.any_in_namespace(name)
            ],
        )

    async def namespace(self, request: Request) -> Reply:
        request.allow("GET")
        name = request.path.removeprefix("/v1/namespace/")
        if name not in self._double.settings.namespaces:
            raise not_found(1, "Namespace not found")
        return read_reply(1, _namespace(name))

    async def scheduler_configuration(self, request: Request) -> Reply:
        request.allow("GET")
        config = {
            "SchedulerAlgorithm": "binpack",
            "PreemptionConfig": {
                "SystemSchedulerEnabled": True,
                "SysBatchSchedulerEnabled": False,
                "BatchSchedulerEnabled": False,
                "ServiceSchedulerEnabled": False,
            },
            "MemoryOversubscriptionEnabled": False,
            "RejectJobRegistration": False,
            "PauseEvalBroker": False,
            "CreateIndex": 1,
            "ModifyIndex": 1,
        }
        tail = {"Index": 1, "LastContact": 0, "KnownLeader": True, "NextToken": ""}
        return read_reply(1, {"SchedulerConfig": config, **tail})

    async def write_log(self, request: Request) -> Reply:
        """The double's own route: every accepted write, oldest first; `?job=ID` for one job's.

        A register names the hash of its spec and the JobModifyIndex before and after it. What became of the
        allocations is in /v1/double/journal.
        """
        request.allow("GET")
        job_id = request.get("job")
        if job_id:
            return Reply(self._double.writes_of(job_id))
        return Reply(msgspec.to_builtins(self._double.writes))

    def _member(self) -> Json:
        settings = self._double.settings
        return {
            "Name": f"{settings.hosts[0].name}.global",
            "Addr": "127.0.0.1",
            "Port": 4648,
            "Tags": {"role": "nomad", "region": "global", "dc": "dc1", "build": settings.version},
            "Status": "alive",
        }


def _namespace(name: str) -> Json:
    return {
        "Name": name,
        "Description": "Default shared namespace" if name == "default" else "",
        "Quota": "",
        "Capabilities": None,
        "NodePoolConfiguration": None,
        "VaultConfiguration": None,
        "ConsulConfiguration": None,
        "Meta": None,
        "CreateIndex": 1,
        "ModifyIndex": 1,
    }
