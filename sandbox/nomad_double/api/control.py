"""Paths of the double's own: trouble on demand, for tests that talk to its process."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from sandbox.faults import Fault
from sandbox.nomad_double.api.web import Reply, Request
from sandbox.nomad_double.client import Client
from sandbox.nomad_double.double import NomadDouble
from sandbox.nomad_double.durations import iso_time
from sandbox.nomad_double.errors import ApiError
from sandbox.nomad_double.model import Json, Node

_VERBS: dict[str, Callable[[Client], None]] = {
    "cut-off": Client.cut_off,
    "freeze": Client.freeze,
    "kill-agent": Client.kill_agent,
    "kill": Client.kill_host,
    "back": Client.back,
}


class ControlRoutes:
    """Handlers of /v1/double/host..."""

    def __init__(self, double: NomadDouble) -> None:
        self._double = double

    async def hosts(self, request: Request) -> Reply:
        """Every host: what is wrong with it, what its servers believe, and when they give it up."""
        request.allow("GET")
        return Reply([self._host(node) for node in self._double.fingerprints.values()])

    async def host(self, request: Request) -> Reply:
        """`PUT /v1/double/host/<name or id>/<cut-off|freeze|kill-agent|kill|restart|back>`."""
        request.allow("PUT", "POST")
        name, _, verb = request.path.removeprefix("/v1/double/host/").partition("/")
        node_id = self._node_id(name)
        client = self._double.clients[node_id]
        if verb == "restart":
            client.kill_agent()
            client.back()
        elif verb in _VERBS:
            _VERBS[verb](client)
        else:
            raise ApiError(404, f"a host can be told {', '.join([*_VERBS, 'restart'])}; not {verb!r}")
        return Reply(self._host(self._double.fingerprints[node_id]))

    async def journal(self, request: Request) -> Reply:
        """What happened, oldest first: `?job=`, `?kind=`, `?since=` (ns)."""
        request.allow("GET")
        return Reply(
            self._double.journal.entries(
                job_id=request.get("job"), kind=request.get("kind"), since_ns=request.number("since")
            )
        )

    async def faults(self, request: Request) -> Reply:
        """GET: those that are set. PUT or POST: set one (its fields in faults.py). DELETE: remove all."""
        faults = self._double.faults
        if request.method == "GET":
            return Reply(faults.listed())
        if request.method == "DELETE":
            return Reply({"removed": faults.remove(None)})
        request.allow("GET", "PUT", "POST", "DELETE")
        try:
            fault = msgspec.convert(request.json(), Fault)
        except msgspec.ValidationError as error:
            raise ApiError(400, f"a fault has kind, path, method, count, ... (faults.py): {error}") from error
        return Reply(msgspec.to_builtins(self._double.add_fault(fault)))

    async def fault(self, request: Request) -> Reply:
        """DELETE one fault by its id."""
        request.allow("DELETE")
        text = request.path.removeprefix("/v1/double/fault/")
        if not text.isdigit() or not self._double.faults.remove(int(text)):
            raise ApiError(404, f"there is no fault {text!r}")
        return Reply()

    async def streams(self, request: Request) -> Reply:
        """`PUT /v1/double/streams/<cut|overflow>`: end all event streams, or let the buffer run over."""
        request.allow("PUT", "POST")
        word = request.path.removeprefix("/v1/double/streams/")
        broker = self._double.broker
        number = broker.subscribers
        if word == "cut":
            broker.close_all("")
        elif word == "overflow":
            broker.overflow()
        else:
            raise ApiError(404, "streams can be told cut or overflow")
        return Reply({"streams": number})

    async def restore(self, request: Request) -> Reply:
        """`PUT /v1/double/restore?index=N`: all indexes go back to N, as after restoring an old snapshot."""
        request.allow("PUT", "POST")
        self._double.state.restore(request.number("index"))
        return Reply({"index": self._double.state.index})

    async def cas(self, request: Request) -> Reply:
        """`PUT /v1/double/cas?atomic=true|false`: EnforceIndex as from 2.0.1 on, or as before."""
        request.allow("PUT", "POST", "GET")
        server = self._double.server
        if request.method != "GET":
            server.atomic_cas = request.flag("atomic", server.atomic_cas)
        return Reply({"atomic": server.atomic_cas})

    def _node_id(self, name: str) -> str:
        if name in self._double.clients:
            return name
        hosts = self._double.fingerprints.values()
        for node in hosts:
            if node.name == name:
                return node.id
        names = ", ".join(sorted(node.name for node in hosts))
        raise ApiError(404, f"there is no host {name!r}; there are {names}")

    def _host(self, node: Node) -> Json:
        client = self._double.clients[node.id]
        deadline_ns = self._double.heartbeats.deadline_ns(node.id)
        known = self._double.state.nodes.get(node.id)
        allocs = self._double.state.allocs_of_node(node.id)
        return {
            "ID": node.id,
            "Name": node.name,
            "State": client.agent.state,
            "Status": known.status if known is not None else "",
            "GivenUpAt": iso_time(deadline_ns) if deadline_ns is not None else None,
            "RunningAllocs": sorted(alloc.id for alloc in allocs if client.running_tasks(alloc.id)),
        }
