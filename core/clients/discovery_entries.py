"""What Consul's list of a service holds, as far as we read it (Consul API docs, health)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from core.domain.facts import ServiceInstance
from core.errors import Unavailable

SYSTEM: Final = "consul"
META_USER: Final = "user"
META_ALLOCATION: Final = "allocation"
META_SPEC: Final = "spec"
_OUTPUT_LIMIT: Final = 4096  # Consul keeps as much of a check's output (its documentation, "checks")


class _Node(msgspec.Struct, rename="pascal"):
    address: str = ""
    node: str = ""


class _Service(msgspec.Struct):
    id: str = msgspec.field(name="ID")
    port: int = msgspec.field(name="Port", default=0)
    address: str = msgspec.field(name="Address", default="")
    meta: dict[str, str] | None = msgspec.field(name="Meta", default=None)


class _Check(msgspec.Struct, rename="pascal"):
    status: str = ""


class _Entry(msgspec.Struct, rename="pascal"):
    """One element of /v1/health/service/:name, the fields we read (Consul API docs, health)."""

    node: _Node
    service: _Service
    checks: tuple[_Check, ...] = ()


class _ToldCheck(_Check, rename="pascal"):
    name: str = ""
    output: str = ""


class _ToldEntry(_Entry, rename="pascal"):
    """The same with the words of its checks, which the watch of the whole fleet does not read."""

    checks: tuple[_ToldCheck, ...] = ()


_RAW_ENTRIES: Final = msgspec.json.Decoder(list[msgspec.Raw])
_ENTRY: Final = msgspec.json.Decoder(_Entry)


def seen(entries: Any) -> tuple[ServiceInstance, ...]:
    """Our instances in an order that does not depend on Consul's. Raises Unavailable for what is no such list."""
    return _in_order(filter(None, map(_instance, _entries(entries))))


def told(entries: Any) -> tuple[ServiceInstance, ...]:
    """As `seen`, with what failing checks say. That moves by itself, so lists that are compared do without."""
    return _in_order(
        msgspec.structs.replace(one, output=_output(entry.checks))
        for entry in _entries(entries)
        if (one := _instance(entry)) is not None
    )


def _instance(entry: _Entry) -> ServiceInstance | None:
    meta = entry.service.meta or {}
    if not meta.get(META_USER) or not meta.get(META_ALLOCATION):
        return None  # not registered by us
    return ServiceInstance(
        service_id=entry.service.id,
        user_id=meta[META_USER],
        allocation_id=meta[META_ALLOCATION],
        address=entry.service.address or entry.node.address,
        port=entry.service.port,
        # What `?passing` means: every check of the instance and of its node.
        passing=all(check.status == "passing" for check in entry.checks),
        spec_hash=meta.get(META_SPEC) or None,
    )


def _in_order(found: Iterable[ServiceInstance]) -> tuple[ServiceInstance, ...]:
    return tuple(sorted(found, key=lambda one: (one.user_id, one.service_id)))


def _output(checks: Iterable[_ToldCheck]) -> str:
    """What the checks that do not pass say, each behind its name."""
    failing = [check for check in checks if check.status != "passing"]
    return "; ".join(f"{check.name}: {check.output[:_OUTPUT_LIMIT]}" for check in failing)


def nodes_with(entries: Any, service_id: str) -> list[str]:
    return sorted({entry.node.node for entry in _entries(entries) if entry.service.id == service_id})


def _entries(entries: Any) -> list[_ToldEntry]:
    try:
        return msgspec.convert(entries, list[_ToldEntry])
    except msgspec.ValidationError as error:
        raise Unavailable(SYSTEM, f"unexpected answer: {error}", code="malformed") from error


class Listed:
    """Reads one list after another of the same service.

    An answer of the watch holds every container of the fleet, and next to none of them changed since the one
    before: what is the same to the byte is not read again.
    """

    def __init__(self) -> None:
        self._read: dict[bytes, ServiceInstance | None] = {}

    def read(self, body: bytes) -> tuple[ServiceInstance, ...]:
        """As `seen`, of the list's JSON."""
        known, self._read = self._read, {}
        try:
            for raw in _RAW_ENTRIES.decode(body):
                text = bytes(raw)  # a copy: a view would keep the whole answer
                if text in known:
                    self._read[text] = known[text]
                else:
                    self._read[text] = _instance(_ENTRY.decode(text))
        except msgspec.ValidationError as error:
            raise Unavailable(SYSTEM, f"unexpected answer: {error}", code="malformed") from error
        except msgspec.DecodeError as error:
            raise Unavailable(SYSTEM, "the answer is not JSON", code="malformed") from error
        return _in_order(filter(None, self._read.values()))
