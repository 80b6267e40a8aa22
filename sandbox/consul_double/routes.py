"""Which path does what."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sandbox.consul_double.bexpr import MAP, Schema, compile_filter
from sandbox.consul_double.catalog import Json
from sandbox.consul_double.double import DATACENTER, STATUSES, VERSION, ConsulDouble
from sandbox.consul_double.http import NOTHING, App, Changes, Reply, Request, Route, consistency
from sandbox.consul_double.refusal import RefusalError
from sandbox.consul_double.routes_knobs import KnobRoutes
from sandbox.consul_double.routes_kv import KeyRoutes

_NODE: Final[Schema] = dict.fromkeys(("ID", "Node", "Address", "Datacenter"), None) | {
    "TaggedAddresses": MAP,
    "Meta": MAP,
}
_SERVICE: Final[Schema] = dict.fromkeys(
    ("ID", "Service", "Tags", "Address", "Port", "EnableTagOverride", "Kind"), None
) | {"Meta": MAP, "TaggedAddresses": MAP, "Weights": {"Passing": None, "Warning": None}}
_CHECK: Final[Schema] = dict.fromkeys(
    (
        *("Node", "CheckID", "Name", "Status", "Notes", "Output"),
        *("ServiceID", "ServiceName", "ServiceTags", "Type"),
    ),
    None,
)
_ENTRY: Final[Schema] = {"Node": _NODE, "Service": _SERVICE, "Checks": _CHECK}
_INSTANCE: Final[Schema] = dict.fromkeys(
    (
        *("ID", "Node", "Address", "Datacenter", "ServiceID", "ServiceName", "ServiceTags"),
        *("ServiceAddress", "ServicePort", "ServiceEnableTagOverride", "ServiceKind"),
    ),
    None,
) | {"TaggedAddresses": MAP, "NodeMeta": MAP, "ServiceMeta": MAP}

_GET: Final = ("GET",)
_PUT: Final = ("PUT",)


class Surface:
    """The handlers, and the ASGI application over them."""

    def __init__(self, double: ConsulDouble, address: str) -> None:
        self._double = double
        self._address = address
        self.changes = Changes()
        double.indexes.listen(self.changes.announce)
        self.app = App(self.changes, double.clock.monotonic, double.faults, self._stale_app)
        self.app.serve(self._routes())

    def _routes(self) -> list[Route]:
        return [
            ("/v1/status/leader", _GET, self.leader),
            ("/v1/status/peers", _GET, self.peers),
            ("/v1/agent/self", _GET, self.about),
            ("/v1/agent/services", _GET, self.agent_services),
            ("/v1/agent/checks", _GET, self.agent_checks),
            ("/v1/agent/service/register", _PUT, self.register),
            ("/v1/agent/service/deregister/", _PUT, self.deregister),
            ("/v1/agent/service/", _GET, self.agent_service),
            ("/v1/agent/check/register", _PUT, self.register_check),
            ("/v1/agent/check/deregister/", _PUT, self.deregister_check),
            ("/v1/agent/check/update/", _PUT, self.update_check),
            *((f"/v1/agent/check/{word}/", _PUT, self.tell) for word in STATUSES),
            ("/v1/health/service/", _GET, self.health),
            ("/v1/health/checks/", _GET, self.service_checks),
            ("/v1/health/state/", _GET, self.checks_in_state),
            ("/v1/health/node/", _GET, self.node_checks),
            ("/v1/catalog/services", _GET, self.catalog_services),
            ("/v1/catalog/service/", _GET, self.catalog_service),
            ("/v1/catalog/deregister", _PUT, self.catalog_deregister),
            ("/v1/catalog/nodes", _GET, self.nodes),
            ("/v1/catalog/datacenters", _GET, self.datacenters),
            *KeyRoutes(self._double, self.app).routes(),
            *KnobRoutes(self._double).routes(),
        ]

    def _stale_app(self, fault_id: int) -> App:
        return Surface(self._double.stale[fault_id], self._address).app

    # --- status and the agent

    async def leader(self, _: Request) -> Reply:
        return Reply(self._address)

    async def peers(self, _: Request) -> Reply:
        return Reply([self._address])

    async def about(self, _: Request) -> Reply:
        node = self._double.catalog.node
        config = {
            "Datacenter": DATACENTER,
            "NodeName": node.name,
            "NodeID": node.id,
            "Revision": "double",
            "Server": True,
            "Version": VERSION,
        }
        return Reply({"Config": config, "Member": {"Name": node.name, "Addr": node.address}, "Meta": {}})

    async def agent_services(self, request: Request) -> Reply:
        keep = compile_filter(request.get("filter"), _SERVICE) if request.get("filter") else None
        services = self._double.services()
        return Reply({key: one for key, one in services.items() if keep is None or keep(one)})

    async def agent_service(self, request: Request) -> Reply:
        service_id = request.argument
        service = self._double.services().get(service_id)
        if service is None:
            raise RefusalError(404, f"unknown service ID: {service_id}")
        return Reply(service)

    async def agent_checks(self, request: Request) -> Reply:
        keep = compile_filter(request.get("filter"), _CHECK) if request.get("filter") else None
        checks = self._double.checks()
        return Reply({key: one for key, one in checks.items() if keep is None or keep(one)})

    async def register(self, request: Request) -> Reply:
        # Real agents register what runs beside them; the double plays the agents of all hosts.
        self._double.register(request.json(), node=request.headers.get("x-double-node", ""))
        return NOTHING

    async def deregister(self, request: Request) -> Reply:
        service_id = request.argument
        if not service_id:
            raise RefusalError(400, "Missing service ID")
        self._double.deregister(service_id)
        return NOTHING

    async def register_check(self, request: Request) -> Reply:
        self._double.register_check(request.json())
        return NOTHING

    async def deregister_check(self, request: Request) -> Reply:
        check_id = request.argument
        self._double.deregister_check(check_id)
        return NOTHING

    async def tell(self, request: Request) -> Reply:
        check_id = request.argument
        word = request.path.split("/")[4]
        self._double.tell(check_id, STATUSES[word], request.get("note"))
        return NOTHING

    async def update_check(self, request: Request) -> Reply:
        check_id = request.argument
        body = request.json()
        status = str(body.get("Status")) if isinstance(body, dict) else ""
        if status not in STATUSES.values():
            raise RefusalError(400, f"Invalid check status: '{status}'")
        self._double.tell(check_id, status, str(body.get("Output") or ""))
        return NOTHING

    # --- health and catalog

    async def health(self, request: Request) -> Reply:
        name = request.argument
        if not name:
            raise RefusalError(400, "Missing service name")
        passing = request.flag("passing")
        tags = tuple(request.query.get("tag", ()))

        def only_passing(entries: list[Json]) -> list[Json]:
            if not passing:
                return entries
            return [one for one in entries if all(check["Status"] == "passing" for check in one["Checks"])]

        return await self._list(
            request,
            _ENTRY,
            lambda: (
                self._double.catalog.service_index(name),
                only_passing(self._double.catalog.health(name, tags)),
            ),
        )

    async def service_checks(self, request: Request) -> Reply:
        name = request.argument
        catalog = self._double.catalog
        return await self._list(
            request, _CHECK, lambda: (catalog.service_index(name), catalog.checks(service=name))
        )

    async def checks_in_state(self, request: Request) -> Reply:
        state = request.argument
        catalog = self._double.catalog
        return await self._list(
            request, _CHECK, lambda: (catalog.table_index("checks"), catalog.checks(state=state))
        )

    async def node_checks(self, request: Request) -> Reply:
        node = request.argument
        catalog = self._double.catalog
        return await self._list(
            request,
            _CHECK,
            lambda: (catalog.table_index("checks"), catalog.checks(node=node)),
        )

    async def catalog_services(self, request: Request) -> Reply:
        catalog = self._double.catalog
        reply = await self.app.blocking(
            request, lambda: (catalog.table_index("services"), catalog.services())
        )
        return consistency(request, reply)

    async def catalog_service(self, request: Request) -> Reply:
        name = request.argument
        if not name:
            raise RefusalError(400, "Missing service name")
        catalog = self._double.catalog
        tags = tuple(request.query.get("tag", ()))
        return await self._list(
            request, _INSTANCE, lambda: (catalog.service_index(name), catalog.instances(name, tags))
        )

    async def catalog_deregister(self, request: Request) -> Reply:
        body = request.json()
        # Consul reads JSON keys in any letter case; libraries send them in lower case.
        asked = {str(key).lower(): value for key, value in body.items()} if isinstance(body, dict) else {}
        if not asked.get("node"):
            raise RefusalError(400, "Missing node")
        if asked.get("serviceid"):
            self._double.deregister_in_catalog(str(asked["serviceid"]), str(asked["node"]))
        return Reply(True)

    async def nodes(self, request: Request) -> Reply:
        catalog = self._double.catalog
        return await self._list(request, _NODE, lambda: (catalog.table_index("nodes"), catalog.nodes()))

    async def datacenters(self, _: Request) -> Reply:
        return Reply([DATACENTER])

    async def _list(self, request: Request, schema: Schema, look: Any) -> Reply:
        """A list of the catalog with `?filter=`, which decides about what is shown and not about waking."""
        expression = request.get("filter")
        keep = compile_filter(expression, schema) if expression else None
        reply = await self.app.blocking(request, look)
        if keep is not None:
            reply = msgspec.structs.replace(reply, value=[one for one in reply.value if keep(one)])
        return consistency(request, reply)
