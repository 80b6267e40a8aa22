"""What the routes work with, opened once a process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from litestar.connection import ASGIConnection

from api.account_cache import AccountCache
from api.chip_cache import ChipCache
from api.fleet_hub import FleetHub
from api.guard_desk import GuardDesk
from api.hooks import Hooks
from api.limits import RequestLimits
from api.observed import ObservedHub
from api.passwords import Passwords
from api.proxies import TrustedProxies
from api.qr import QrDesk
from api.streams import Streams
from api.tokens import Tokens
from api.upstream_accounts import UpstreamAccounts
from api.vault import Vault
from core.clients.cache import Cache
from core.clock import Clock
from core.settings import Settings
from core.store.engine import Engine
from core.store.look_ins import PostgresLookIns


@dataclass(frozen=True)
class Services:
    """Everything with a lifetime or a secret; made by `create_app`, found with `services_of`.

    `observed`: news of wishes and passes. `looked`: of samples of containers that somebody looks into.
    `upstream`: whose the accounts are in attached mode. `guards`: None without the secret that proves a guard.
    """

    settings: Settings
    clock: Clock
    engine: Engine
    cache: Cache
    vault: Vault
    passwords: Passwords
    limits: RequestLimits
    tokens: Tokens
    proxies: TrustedProxies
    observed: ObservedHub
    qr: QrDesk
    look_ins: PostgresLookIns
    accounts: AccountCache
    chips: ChipCache
    looked: ObservedHub
    streams: Streams
    fleet: FleetHub
    hooks: Hooks
    upstream: UpstreamAccounts | None = None
    guards: GuardDesk | None = None

    @cached_property
    def operators(self) -> frozenset[str]:
        """Ids and e-mails of the operators, lower case."""
        return frozenset(name.lower() for name in self.settings.api.operators)

    @property
    def proxy_enabled(self) -> bool:
        """Whether chips reach WhatsApp through the guard and its proxies."""
        return self.settings.loop.egress == "guard"


def services_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Services:
    services: Services = connection.app.state.services
    return services
