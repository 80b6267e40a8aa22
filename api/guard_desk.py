"""What the guards of hosts ask of this process: leases with routes, and to count what was used."""

from __future__ import annotations

import hmac
import re
from typing import Final, TypeVar

import msgspec

from core.clock import Clock
from core.crypto import Sealer
from core.domain.chip_credentials import node_key
from core.domain.guard_wire import Renew, Renewed, Standing, Usage
from core.domain.names import parse_id
from core.errors import DomainError, Forbidden, Unauthenticated
from core.store import guard_routes, upstreams, usage_batches
from core.store.engine import Engine
from core.store.guard_leases import PostgresGuardLeases

T = TypeVar("T")

_CREDENTIAL: Final = re.compile(r"Guard ([0-9a-f-]{36}):([0-9a-f]{64})", re.ASCII)


class GuardDesk:
    """One for a process: its leases remember how the store's clock runs.

    All methods raise Unauthenticated (`bad_guard_key`), Forbidden (`not_its_node`), DomainError (`bad_request`) for
    ids that are none, Unavailable and StaleWrite: then the guard asks again.
    """

    def __init__(self, engine: Engine, sealer: Sealer, secret: bytes, *, ttl_s: float, clock: Clock) -> None:
        """`secret`: what nodes' keys are made from. `ttl_s`: life of a lease."""
        if not secret:
            raise ValueError("nodes' keys are made from a secret, and there is none")
        self._engine = engine
        self._secret = secret
        self._password = upstreams.opening(sealer)
        self._leases = PostgresGuardLeases(engine, ttl_s=ttl_s, clock=clock)

    def __repr__(self) -> str:
        return "GuardDesk(***)"

    def node_of(self, authorization: str) -> str:
        """The node whose guard sent `Authorization`, proven without a look-up."""
        found = _CREDENTIAL.fullmatch(authorization)
        if found is None or parse_id(found[1]) != found[1]:
            raise _unknown()
        if not hmac.compare_digest(node_key(self._secret, found[1]), bytes.fromhex(found[2])):
            raise _unknown()
        return found[1]

    async def renew(self, node_id: str, renew: Renew) -> Renewed:
        """Closes first, so that what they free can be given in the same batch."""
        _refuse_others(node_id, renew.node_id)
        _refuse_unreadable(*(ask.allocation_id for ask in (*renew.asks, *renew.closed)))
        await self._leases.confirm_closed(node_id, renew.closed)
        answers = await self._leases.renew(node_id, renew.asks)
        granted = [one.allocation_id for one in answers if one.standing is Standing.GRANTED]
        routes = await guard_routes.read(self._engine, node_id, granted, self._password)
        return Renewed(answers, routes)

    async def usage(self, node_id: str, usage: Usage) -> None:
        """Counts a batch once."""
        _refuse_others(node_id, usage.node_id)
        _refuse_unreadable(usage.batch_id)
        await usage_batches.count(self._engine, usage)


def decoded(raw: bytes, type_: type[T]) -> T:
    """Raises DomainError; its text quotes nothing."""
    try:
        return msgspec.json.decode(raw, type=type_)
    except msgspec.DecodeError:
        raise _unreadable() from None


def _unknown() -> Unauthenticated:
    return Unauthenticated("Chave do guarda inválida.", code="bad_guard_key")


def _refuse_others(node_id: str, named: str) -> None:
    if named != node_id:
        raise Forbidden("O guarda responde apenas pelo próprio nó.", code="not_its_node")


def _refuse_unreadable(*ids: str) -> None:
    if any(parse_id(one) != one for one in ids):
        raise _unreadable()


def _unreadable() -> DomainError:
    return DomainError("A requisição não pôde ser entendida. Confira os dados enviados.", code="bad_request")
