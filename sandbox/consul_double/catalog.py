"""The catalog: what the servers know of nodes, services and checks, with Consul's per-service indexes."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec

from sandbox.consul_double.indexes import Indexes

Json = dict[str, Any]

PASSING: Final = "passing"
WARNING: Final = "warning"
CRITICAL: Final = "critical"
SERF_HEALTH: Final = "serfHealth"
NO_PARTS: Final[Json] = {"MeshGateway": {}, "Expose": {}}


class Node(msgspec.Struct):
    id: str
    name: str
    address: str
    datacenter: str
    create_index: int = 0
    modify_index: int = 0

    def view(self) -> Json:
        addresses = dict.fromkeys(("lan", "lan_ipv4", "wan", "wan_ipv4"), self.address)
        return {
            "ID": self.id,
            "Node": self.name,
            "Address": self.address,
            "Datacenter": self.datacenter,
            "TaggedAddresses": addresses,
            "Meta": {"consul-network-segment": ""},
            "CreateIndex": self.create_index,
            "ModifyIndex": self.modify_index,
        }


class Service(msgspec.Struct, frozen=True):
    """A registered instance, without indexes."""

    id: str
    name: str
    address: str = ""
    port: int = 0
    tags: tuple[str, ...] = ()
    meta: dict[str, str] = {}
    node: str = ""
    """The node whose agent holds it; "" for the double's own."""
    passing_weight: int = 1
    warning_weight: int = 1
    enable_tag_override: bool = False

    def tagged_addresses(self) -> Json:
        if not self.address:
            return {}
        place = {"Address": self.address, "Port": self.port}
        return {"TaggedAddresses": {"lan_ipv4": place, "wan_ipv4": place}}

    def weights(self) -> Json:
        return {"Passing": self.passing_weight, "Warning": self.warning_weight}


class Check(msgspec.Struct, frozen=True):
    """A check as the catalog holds it, without indexes. `service_id` is "" for a check of the node."""

    id: str
    name: str
    status: str
    output: str = ""
    notes: str = ""
    kind: str = ""
    service_id: str = ""
    service_name: str = ""
    service_tags: tuple[str, ...] = ()
    node: str = ""
    """As of a service."""

    def view(self, node: str, create_index: int = 0, modify_index: int = 0) -> Json:
        return {
            "Node": node,
            "CheckID": self.id,
            "Name": self.name,
            "Status": self.status,
            "Notes": self.notes,
            "Output": self.output,
            "ServiceID": self.service_id,
            "ServiceName": self.service_name,
            "ServiceTags": list(self.service_tags),
            "Type": self.kind,
            "Definition": {},
            "CreateIndex": create_index,
            "ModifyIndex": modify_index,
        }


class _Row(msgspec.Struct):
    value: Any
    create_index: int
    modify_index: int
    shown: tuple[Any, int, Json] | None = None
    """The view that was made of this value at this modify index: lists show most rows as they did before."""

    def view(self, make: Callable[[], Json]) -> Json:
        if self.shown is None or self.shown[0] is not self.value or self.shown[1] != self.modify_index:
            self.shown = self.value, self.modify_index, make()
        return self.shown[2]


class Catalog:
    """Services and checks of all nodes, and the indexes that reads of them block on."""

    def __init__(self, indexes: Indexes, node: Node) -> None:
        self.node = node
        self._indexes = indexes
        self._services: dict[str, _Row] = {}
        self._checks: dict[str, _Row] = {}
        self._of_service: dict[str, int] = {}
        self._last_extinction = 0
        self.others: dict[str, Node] = {}
        """Further nodes by name: hosts whose Consul agents the double plays as well."""
        node.create_index = node.modify_index = indexes.commit("nodes", "checks")
        serf = Check(SERF_HEALTH, "Serf Health Status", PASSING, "Agent alive and reachable")
        self._checks[SERF_HEALTH] = _Row(serf, node.create_index, node.create_index)
        self.put(Service("consul", "consul", port=8300), ())

    def node_of(self, name: str) -> Node:
        """A node by its name; one that is not known yet joins the cluster, alive. "" is the double's own."""
        if name in ("", self.node.name):
            return self.node
        known = self.others.get(name)
        if known is None:
            node_id = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.{self.node.id}"))
            known = Node(node_id, name, self.node.address, self.node.datacenter)
            known.create_index = known.modify_index = self._indexes.commit("nodes", "checks")
            self.others[name] = known
            self.put_serf_health(PASSING, name)
        return known

    def put_serf_health(self, status: str, node: str = "") -> None:
        """What the other agents say of a node's."""
        name = "" if node == self.node.name else node
        output = "Agent alive and reachable" if status == PASSING else "Agent not live or unreachable"
        check_id = f"{name}/{SERF_HEALTH}" if name else SERF_HEALTH
        self.put_check(Check(check_id, "Serf Health Status", status, output, node=name))

    def node_name_of(self, service_id: str) -> str | None:
        """The name of the node that holds an instance, None for one that is not there."""
        row = self._services.get(service_id)
        return None if row is None else row.value.node or self.node.name

    def is_alive(self, node: str) -> bool:
        """Do the other agents hear the agent of a node."""
        return self.status(f"{node}/{SERF_HEALTH}" if node else SERF_HEALTH) != CRITICAL

    def nodes(self) -> list[Json]:
        return [node.view() for node in (self.node, *self.others.values())]

    # --- writes

    def put(self, service: Service, checks: tuple[Check, ...]) -> None:
        """Register or change an instance with its checks in one commit; no commit when nothing changes."""
        row = self._services.get(service.id)
        self.node_of(service.node)
        if row is not None and row.value.name != service.name:
            self.remove(service.id)
            row = None
        changed = [check for check in checks if self._differs(check)]
        if row is not None and row.value == service and not changed:
            return
        index = self._indexes.commit(*(("services", "checks") if changed else ("services",)))
        if row is None:
            self._services[service.id] = _Row(service, index, index)
        elif row.value != service:
            row.value, row.modify_index = service, index
        for check in changed:
            self._put_check(check, index)
        self._of_service[service.name] = index
        self._indexes.announce()

    def put_check(self, check: Check) -> None:
        """Change one check; no commit when nothing changes."""
        if not self._differs(check):
            return
        index = self._indexes.commit("checks")
        self._put_check(check, index)
        self._indexes.announce()

    def remove_check(self, check_id: str) -> None:
        row = self._checks.pop(check_id, None)
        if row is not None:
            self._touch(row.value, self._indexes.commit("checks"))
            self._indexes.announce()

    def remove(self, service_id: str) -> None:
        """Remove an instance and its checks."""
        row = self._services.pop(service_id, None)
        if row is None:
            return
        self._checks = {key: one for key, one in self._checks.items() if one.value.service_id != service_id}
        name = row.value.name
        index = self._indexes.commit("services", "checks")
        if any(other.value.name == name for other in self._services.values()):
            self._of_service[name] = index
        else:
            # Reads of any absent name block on the last service that vanished, whatever its name was.
            self._of_service.pop(name, None)
            self._last_extinction = index
        self._indexes.announce()

    def restart_indexes(self) -> None:
        """After `Indexes.restart`: everything looks as if written at its beginning."""
        for row in (*self._services.values(), *self._checks.values()):
            row.create_index = row.modify_index = 1
        self._of_service = dict.fromkeys(self._of_service, 1)
        self._last_extinction = min(self._last_extinction, 1)
        self.node.create_index = self.node.modify_index = 1

    # --- reads

    def service_index(self, name: str) -> int:
        """What a read of one service blocks on (agent/consul/state, maxIndexForService in 1.8)."""
        if not any(row.value.name == name for row in self._services.values()) and self._last_extinction:
            return self._last_extinction
        return self._of_service.get(name) or self._indexes.last("nodes", "services", "checks")

    def table_index(self, *tables: str) -> int:
        return self._indexes.last(*tables)

    def status(self, check_id: str) -> str | None:
        row = self._checks.get(check_id)
        return None if row is None else str(row.value.status)

    def services(self) -> dict[str, list[str]]:
        """Service name -> the tags of its instances."""
        found: dict[str, dict[str, None]] = {}
        for row in self._services.values():
            found.setdefault(row.value.name, {}).update(dict.fromkeys(row.value.tags))
        return {name: list(found[name]) for name in sorted(found)}

    def health(self, name: str, tags: tuple[str, ...] = ()) -> list[Json]:
        """Instances of a service with the checks that decide about each."""
        checks: dict[tuple[str, str], list[Json]] = {}
        for _, row in sorted(self._checks.items()):
            if row.value.service_name in ("", name):
                key = row.value.node, row.value.service_id
                checks.setdefault(key, []).append(row.view(partial(self._check_view, row)))
        rows = self._instances(name, tags)
        nodes = {node: self.node_of(node).view() for node in {row.value.node for row in rows}}
        return [
            {
                "Node": nodes[row.value.node],
                "Service": row.view(partial(self._service_view, row)),
                "Checks": [
                    *checks.get((row.value.node, ""), ()),
                    *checks.get((row.value.node, row.value.id), ()),
                ],
            }
            for row in rows
        ]

    def instances(self, name: str, tags: tuple[str, ...] = ()) -> list[Json]:
        """Instances of a service in the catalog's own, flat form."""
        found = []
        for row in self._instances(name, tags):
            service: Service = row.value
            node = self.node_of(service.node).view()
            head = {key: node[key] for key in ("ID", "Node", "Address", "Datacenter", "TaggedAddresses")}
            tagged = service.tagged_addresses()
            found.append(
                {
                    **head,
                    "NodeMeta": node["Meta"],
                    "ServiceKind": "",
                    "ServiceID": service.id,
                    "ServiceName": service.name,
                    "ServiceTags": list(service.tags),
                    "ServiceAddress": service.address,
                    **({"ServiceTaggedAddresses": tagged["TaggedAddresses"]} if tagged else {}),
                    "ServiceWeights": service.weights(),
                    "ServiceMeta": service.meta,
                    "ServicePort": service.port,
                    "ServiceEnableTagOverride": service.enable_tag_override,
                    "ServiceProxy": NO_PARTS,
                    "ServiceConnect": {},
                    "CreateIndex": row.create_index,
                    "ModifyIndex": row.modify_index,
                }
            )
        return found

    def checks(
        self, *, service: str | None = None, state: str = "any", node: str | None = None
    ) -> list[Json]:
        """Checks of one service, one node or of everything, in one state or in any."""
        own = "" if node == self.node.name else node
        return [
            self._check_view(row)
            for _, row in sorted(self._checks.items())
            if service in (None, row.value.service_name)
            and state in ("any", row.value.status)
            and own in (None, row.value.node)
        ]

    def frozen_copy(self, indexes: Indexes) -> Catalog:
        """The catalog as it is now; nothing changes the copy any more."""
        frozen = copy.copy(self)
        frozen._indexes = indexes
        frozen._services = {key: copy.copy(row) for key, row in self._services.items()}
        frozen._checks = {key: copy.copy(row) for key, row in self._checks.items()}
        frozen._of_service = dict(self._of_service)
        frozen.others = dict(self.others)
        return frozen

    # --- inner parts

    def _instances(self, name: str, tags: tuple[str, ...]) -> list[_Row]:
        return [
            row
            for _, row in sorted(self._services.items())
            if row.value.name == name and all(tag in row.value.tags for tag in tags)
        ]

    def _differs(self, check: Check) -> bool:
        row = self._checks.get(check.id)
        return row is None or row.value != check

    def _put_check(self, check: Check, index: int) -> None:
        row = self._checks.get(check.id)
        if row is None:
            self._checks[check.id] = _Row(check, index, index)
        else:
            row.value, row.modify_index = check, index
        self._touch(check, index)

    def _touch(self, check: Check, index: int) -> None:
        if check.service_name:
            if check.service_name in self._of_service:
                self._of_service[check.service_name] = index
            return
        on_node = {row.value.name for row in self._services.values() if row.value.node == check.node}
        for name in on_node & self._of_service.keys():  # a check of the node decides about everything on it
            self._of_service[name] = index

    def _service_view(self, row: _Row) -> Json:
        service: Service = row.value
        return {
            "ID": service.id,
            "Service": service.name,
            "Tags": list(service.tags),
            "Address": service.address,
            **service.tagged_addresses(),
            "Meta": service.meta or None,
            "Port": service.port,
            "Weights": service.weights(),
            "EnableTagOverride": service.enable_tag_override,
            "Proxy": NO_PARTS,
            "Connect": {},
            "CreateIndex": row.create_index,
            "ModifyIndex": row.modify_index,
        }

    def _check_view(self, row: _Row) -> Json:
        check: Check = row.value
        view = check.view(check.node or self.node.name, row.create_index, row.modify_index)
        # Ids of checks are unique on a node; here they share one table.
        return {**view, "CheckID": SERF_HEALTH} if check.id.endswith(f"/{SERF_HEALTH}") else view
