"""The application: routes, error map, and the lifetime of what they work with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import structlog
from argon2 import PasswordHasher
from litestar import Litestar
from litestar.datastructures import State

from api import idempotency, problems
from api.access_log import AccessLog
from api.account_cache import AccountCache
from api.address_limit import AddressLimit
from api.chip_cache import ChipCache
from api.cors import Cors
from api.fleet_hub import FleetHub
from api.guard_desk import GuardDesk
from api.hooks import Hooks
from api.idempotency import KeptAnswers
from api.limits import RequestLimits
from api.metrics import Metrics
from api.observed import ObservedHub, stand_in
from api.openapi import config as openapi_config
from api.options import OptionsRouter
from api.passwords import Passwords
from api.proxies import TrustedProxies
from api.qr import QrDesk
from api.qr_news import QrNews
from api.routes import (
    accounts,
    api_keys,
    chip_annotations,
    chips,
    containers,
    containers_admin,
    egress,
    explain,
    fleet,
    guard,
    live,
    look_ins,
    pairing,
    providers,
    qr_socket,
    service,
    sub_users,
    webhooks,
)
from api.security_headers import SecurityHeaders
from api.services import Services
from api.signing_keys import FixedKey, PublishedKeys, SigningKeys
from api.standings import AT_ONCE, Standings
from api.streams import StreamLimits, Streams
from api.tokens import Tokens
from api.upstream_accounts import UpstreamAccounts
from api.vault import Vault
from core.clients.cache import Cache
from core.clients.endpoint_cache import EndpointCache
from core.clients.qr_cache import QrCache
from core.clients.upstream import UpstreamClient
from core.clients.waha import WahaClients
from core.clock import Clock, SystemClock
from core.crypto import Sealer
from core.settings import Settings
from core.store.engine import Engine, create_engine
from core.store.fleet_control import EVERYBODY
from core.store.look_ins import PostgresLookIns
from core.store.notify import FLEET, INTENTS, LOOKED, OBSERVED, Item, Listener, News
from core.store.standings import StandingReader

_log = structlog.get_logger("api")

# Attached, these are WHAGO's: the reverse proxy sends them there, and here they are unknown paths.
_ACCOUNT_ROUTES: Final = [
    accounts.register,
    accounts.login,
    accounts.refresh,
    accounts.logout,
    accounts.get_me,
    accounts.change_me,
    api_keys.list_api_keys,
    api_keys.create_api_key,
    api_keys.revoke_api_key,
]


def create_app(
    settings: Settings, *, clock: Clock | None = None, hasher: PasswordHasher | None = None
) -> Litestar:
    """The API as an ASGI application. Nothing is opened before its lifespan begins.

    `hasher`: argon2id parameters, the library's defaults unless given.
    """
    clock, metrics = clock or SystemClock(), Metrics()
    proxies = TrustedProxies(settings.api.trusted_proxies)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with _opened(settings, clock, hasher, proxies) as services:
            app.state.services = services
            yield

    v1 = OptionsRouter(
        "/api/v1",
        route_handlers=[
            *([] if settings.accounts.attached else _ACCOUNT_ROUTES),
            chips.list_chips,
            chips.create_chip,
            chips.get_chip,
            chips.delete_chip,
            chips.get_qr,
            chips.disconnect_chip,
            chips.reconnect_chip,
            explain.explain_chip,
            fleet.get_fleet,
            fleet.stream_fleet,
            fleet.get_fleet_plan,
            fleet.pause_fleet,
            fleet.resume_fleet,
            containers_admin.list_all_containers,
            containers_admin.cleanup_containers,
            containers_admin.put_container,
            containers_admin.delete_container_of,
            live.list_chip_events,
            live.stream_chip,
            qr_socket.push_qr,
            pairing.request_pairing_code,
            egress.get_chip_proxy,
            egress.list_chip_exits,
            egress.rotate_chip_label,
            egress.get_proxy_usage,
            egress.get_fleet_proxy_usage,
            providers.list_provider_templates,
            providers.list_providers,
            providers.create_provider,
            providers.get_provider,
            providers.change_provider,
            providers.remove_provider,
            providers.set_default_provider,
            providers.clear_provider_trouble,
            providers.dry_run_provider,
            sub_users.list_sub_users,
            sub_users.create_sub_user,
            sub_users.change_sub_user,
            sub_users.remove_sub_user,
            sub_users.clear_sub_user_trouble,
            chip_annotations.put_annotation,
            chip_annotations.delete_annotation,
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
    # Without the secret nobody could be told from anybody.
    internal = [guard.renew_leases, guard.count_usage] if settings.guard.secret.reveal() else []
    app = Litestar(
        route_handlers=[v1, *internal, service.health, service.live, service.ready, service.metrics],
        lifespan=[lifespan],
        state=State(),
        exception_handlers=problems.HANDLERS,
        request_max_body_size=settings.api.body_limit_bytes,
        openapi_config=openapi_config(),
        before_request=idempotency.begin,
        # Logging is structlog's, set up by who runs the process; the framework must not do its own.
        logging_config=None,
        debug=False,
    )
    # From the inside out: who is over the limit of an address is told so by an answer like all others.
    limited = Cors(AddressLimit(KeptAnswers(app.asgi_handler), proxies), settings.api.cors_origins)
    app.asgi_handler = SecurityHeaders(AccessLog(limited, metrics), proxies)
    metrics.watch(app)
    app.state.metrics = metrics
    return app


@asynccontextmanager
async def _opened(
    settings: Settings, clock: Clock, hasher: PasswordHasher | None, proxies: TrustedProxies
) -> AsyncIterator[Services]:
    async with AsyncExitStack() as stack:
        engine = create_engine(settings.store, application_name="wahafleet api")
        stack.push_async_callback(engine.dispose)
        redis_url = settings.cache.redis_url
        cache = Cache(None if redis_url is None else redis_url.reveal(), timeout_s=settings.cache.timeout_s)
        stack.push_async_callback(cache.close)
        waha = WahaClients()
        stack.push_async_callback(waha.aclose)
        limits = RequestLimits(settings.limits, cache, clock)
        stack.push_async_callback(limits.close)
        vault = Vault(Sealer(tuple(key.reveal() for key in settings.store.secret_keys)))
        codes = QrCache(cache, settings.cache.qr_ttl_s, clock=clock)
        qr = QrDesk(
            engine=engine,
            cache=cache,
            codes=codes,
            endpoints=EndpointCache(cache, settings.cache.endpoint_ttl_s),
            waha=waha,
            vault=vault,
            clock=clock,
        )
        stack.push_async_callback(qr.close)
        tokens, upstream = await _accounts(stack, settings, clock, engine, cache)
        reader = StandingReader.opened(
            settings.store, connections=AT_ONCE, application_name="wahafleet api standings"
        )
        standings = Standings(await stack.enter_async_context(reader))
        stack.push_async_callback(standings.close)
        chips_kept = ChipCache(engine, standings)
        news = QrNews(
            cache=cache, codes=codes, desk=qr, chips=lambda user_id: chips_kept.of(user_id, None), clock=clock
        )
        stack.push_async_callback(news.close)
        hooks = Hooks(engine, vault, news)
        stack.push_async_callback(hooks.close)
        observed, looked, watched = ObservedHub(), ObservedHub(), FleetHub()
        stack.push_async_callback(
            _ended, asyncio.create_task(_listen(settings, observed, looked, watched, qr))
        )
        yield Services(
            settings=settings,
            clock=clock,
            engine=engine,
            cache=cache,
            vault=vault,
            passwords=Passwords(hasher),
            limits=limits,
            tokens=tokens,
            proxies=proxies,
            observed=observed,
            qr=qr,
            look_ins=PostgresLookIns(engine),
            accounts=AccountCache(engine, standings),
            chips=chips_kept,
            looked=looked,
            streams=Streams(_stream_limits(settings), clock),
            fleet=watched,
            hooks=hooks,
            upstream=upstream,
            guards=_guards(settings, engine, vault, clock),
        )


def _guards(settings: Settings, engine: Engine, vault: Vault, clock: Clock) -> GuardDesk | None:
    secret = settings.guard.secret.reveal().encode()
    if not secret:
        return None
    return GuardDesk(engine, vault.sealer, secret, ttl_s=settings.guard.ttl_s, clock=clock)


async def _accounts(
    stack: AsyncExitStack, settings: Settings, clock: Clock, engine: Engine, cache: Cache
) -> tuple[Tokens, UpstreamAccounts | None]:
    """Who issues tokens and whose the accounts are."""
    chosen = settings.accounts
    client = await stack.enter_async_context(
        UpstreamClient(chosen.upstream_url, keys_url=chosen.jwks_url, timeout_s=chosen.upstream_timeout_s)
    )
    keys: SigningKeys | None = None
    if chosen.jwks_url:
        keys = PublishedKeys(client, clock)
    elif chosen.jwt_public_key:
        keys = FixedKey(chosen.jwt_public_key)
    tokens = Tokens(settings.api, clock, keys, foreign_only=chosen.attached and keys is not None)
    if not chosen.attached:
        return tokens, None
    upstream = UpstreamAccounts(
        engine, cache, client, clock, profile_s=chosen.profile_s, timeout_s=chosen.upstream_timeout_s
    )
    return tokens, upstream


async def _listen(
    settings: Settings, observed: ObservedHub, looked: ObservedHub, watched: FleetHub, qr: QrDesk
) -> None:
    """Hear what passes wrote: wake those who wait for it, and read the endpoint from the store again.

    And hear of wishes and samples, which only wake those who look.
    """
    listener = Listener(
        settings.store.database_url.reveal(),
        [INTENTS, OBSERVED, LOOKED, FLEET],
        application_name="wahafleet api listen",
    )

    def hear(item: Item) -> None:
        if isinstance(item, News) and item.channel == LOOKED:
            looked.announce(item.payload)
        elif isinstance(item, News) and (item.channel == FLEET or item.payload == EVERYBODY):
            watched.announce_fleet()
        elif isinstance(item, News):
            if item.channel == OBSERVED:
                qr.forget_soon(item.payload)
            observed.announce(item.payload)
            watched.announce(item.payload)
        else:
            qr.forget_all()
            observed.announce_all()
            looked.announce_all()
            watched.announce_all()

    async def listen() -> None:
        try:
            await listener.run(hear)
        except Exception:
            # Who waits looks again every second without it.
            _log.exception("listener_broke")

    await asyncio.gather(listen(), stand_in(listener, observed, looked, watched))


def _stream_limits(settings: Settings) -> StreamLimits:
    return StreamLimits(
        per_user=settings.api.streams_per_user,
        per_process=settings.api.streams_per_process,
        life_s=settings.api.stream_life_s,
    )


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
