"""The application: routes, error map, and the lifetime of what they work with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import structlog
from argon2 import PasswordHasher
from litestar import Litestar, Router
from litestar.config.cors import CORSConfig
from litestar.datastructures import State

from api import problems
from api.access_log import AccessLog
from api.account_cache import AccountCache
from api.chip_cache import ChipCache
from api.observed import ObservedHub
from api.openapi import config as openapi_config
from api.passwords import Passwords
from api.proxies import TrustedProxies
from api.qr import QrDesk
from api.routes import accounts, chips, containers, explain, look_ins, service, webhooks
from api.services import Services
from api.standings import AT_ONCE, Standings
from api.tokens import Tokens
from api.vault import Vault
from core.clients.cache import Cache
from core.clients.endpoint_cache import EndpointCache
from core.clients.waha import WahaClients
from core.clock import Clock, SystemClock
from core.crypto import Sealer
from core.settings import Settings
from core.store.engine import create_engine
from core.store.look_ins import PostgresLookIns
from core.store.notify import LOOKED, OBSERVED, Item, Listener, News
from core.store.standings import StandingReader

CORS_HEADERS: Final = [
    "Authorization",
    "Content-Type",
    "X-API-Key",
    "Idempotency-Key",
    "If-None-Match",
    "Prefer",
    "Last-Event-ID",
]
_log = structlog.get_logger("api")

CORS_EXPOSED: Final = ["ETag", "Retry-After", "Link", "Preference-Applied"]


def create_app(
    settings: Settings, *, clock: Clock | None = None, hasher: PasswordHasher | None = None
) -> Litestar:
    """The API as an ASGI application. Nothing is opened before its lifespan begins.

    `hasher`: argon2id parameters, the library's defaults unless given.
    """
    clock = clock or SystemClock()

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with _opened(settings, clock, hasher) as services:
            app.state.services = services
            yield

    v1 = Router(
        "/api/v1",
        route_handlers=[
            accounts.register,
            accounts.login,
            accounts.get_me,
            accounts.change_me,
            chips.list_chips,
            chips.create_chip,
            chips.get_chip,
            chips.delete_chip,
            chips.get_qr,
            chips.disconnect_chip,
            chips.reconnect_chip,
            explain.explain_chip,
            containers.get_container,
            containers.get_container_access,
            look_ins.get_container_stats,
            look_ins.get_container_logs,
            look_ins.restart_container_of,
            look_ins.get_my_container,
            look_ins.restart_my_container,
            webhooks.receive_waha_webhook,
        ],
    )
    app = Litestar(
        route_handlers=[v1, service.health, service.live, service.ready],
        lifespan=[lifespan],
        state=State(),
        exception_handlers=problems.HANDLERS,
        request_max_body_size=settings.api.body_limit_bytes,
        openapi_config=openapi_config(),
        cors_config=_cors(settings.api.cors_origins),
        # Logging is structlog's, set up by who runs the process; the framework must not do its own.
        logging_config=None,
        debug=False,
    )
    app.asgi_handler = AccessLog(app.asgi_handler)
    return app


@asynccontextmanager
async def _opened(settings: Settings, clock: Clock, hasher: PasswordHasher | None) -> AsyncIterator[Services]:
    async with AsyncExitStack() as stack:
        engine = create_engine(settings.store, application_name="wahafleet api")
        stack.push_async_callback(engine.dispose)
        redis_url = settings.cache.redis_url
        cache = Cache(None if redis_url is None else redis_url.reveal(), timeout_s=settings.cache.timeout_s)
        stack.push_async_callback(cache.close)
        waha = WahaClients()
        stack.push_async_callback(waha.aclose)
        vault = Vault(Sealer(tuple(key.reveal() for key in settings.store.secret_keys)))
        qr = QrDesk(
            engine=engine,
            cache=cache,
            endpoints=EndpointCache(cache, settings.cache.endpoint_ttl_s),
            qr_ttl_s=settings.cache.qr_ttl_s,
            waha=waha,
            vault=vault,
            clock=clock,
        )
        stack.push_async_callback(qr.close)
        reader = StandingReader.opened(
            settings.store, connections=AT_ONCE, application_name="wahafleet api standings"
        )
        standings = Standings(await stack.enter_async_context(reader))
        stack.push_async_callback(standings.close)
        observed, looked = ObservedHub(), ObservedHub()
        stack.push_async_callback(_ended, asyncio.create_task(_listen(settings, observed, looked, qr)))
        yield Services(
            settings=settings,
            clock=clock,
            engine=engine,
            cache=cache,
            vault=vault,
            passwords=Passwords(hasher),
            tokens=Tokens(settings.api, clock),
            proxies=TrustedProxies(settings.api.trusted_proxies),
            observed=observed,
            qr=qr,
            look_ins=PostgresLookIns(engine),
            accounts=AccountCache(engine, standings),
            chips=ChipCache(engine, standings),
            looked=looked,
        )


async def _listen(settings: Settings, observed: ObservedHub, looked: ObservedHub, qr: QrDesk) -> None:
    """Hear what passes wrote: wake those who wait for it, and read the endpoint from the store again.

    And hear of samples, which only wake those who look.
    """
    listener = Listener(
        settings.store.database_url.reveal(), [OBSERVED, LOOKED], application_name="wahafleet api listen"
    )

    def hear(item: Item) -> None:
        if isinstance(item, News) and item.channel == LOOKED:
            looked.announce(item.payload)
        elif isinstance(item, News):
            qr.forget_soon(item.payload)
            observed.announce(item.payload)
        else:
            qr.forget_all()
            observed.announce_all()
            looked.announce_all()

    try:
        await listener.run(hear)
    except Exception:
        # Requests look again every second without it.
        _log.exception("listener_broke")


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _cors(origins: tuple[str, ...]) -> CORSConfig | None:
    """The pages are same-origin: without a list nobody else may call, and no CORS header is sent."""
    if not origins:
        return None
    return CORSConfig(
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "PUT", "DELETE", "OPTIONS"],
        allow_headers=CORS_HEADERS,
        allow_credentials=True,
        expose_headers=CORS_EXPOSED,
        max_age=600,
    )
