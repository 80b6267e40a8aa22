"""Providers of proxies, for operators: what there is, what it shall be, and what a credential would look like."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request
from litestar.params import FromPath, JSONBody

from api import provider_dry_run
from api.auth import actor_of, requires_operator
from api.bodies import StrictBody, changes_of
from api.deadline import in_time
from api.openapi import errors
from api.provider_views import provider_view, template_view
from api.routes.containers import SECURED
from api.routing import delete, get, post, put
from api.schemas_providers import (
    DryRun,
    DryRunResult,
    NewProvider,
    Provider,
    ProviderChange,
    ProviderTemplate,
)
from api.services import services_of
from core.provider_templates import templates
from core.store import providers_admin as store

TAGS = ["proxies"]
_READ: Final = errors(401, 403, 404, 503)
_WRITE: Final = errors(400, 401, 403, 404, 413, 422, 503)


@get(
    "/fleet/provider-templates",
    guards=[requires_operator],
    operation_id="listProviderTemplates",
    summary="Providers that this release knows how to talk to",
    description="Data of the release. `verified`: a test speaks for it; the others are their documentation's word.",
    tags=TAGS,
    security=SECURED,
    responses=errors(401, 403, 503),
)
async def list_provider_templates() -> list[ProviderTemplate]:
    return [template_view(template) for _, template in sorted(templates().items())]


@get(
    "/fleet/providers",
    guards=[requires_operator],
    operation_id="listProviders",
    summary="All providers, by slug",
    tags=TAGS,
    security=SECURED,
    responses=errors(401, 403, 503),
)
async def list_providers(request: Request[Any, Any, Any]) -> list[Provider]:
    found = await in_time(store.list_providers(services_of(request).engine))
    return [provider_view(row) for row in found]


@post(
    "/fleet/providers",
    guards=[requires_operator],
    dto=StrictBody[NewProvider],
    operation_id="createProvider",
    summary="Make a provider; the first enabled one becomes the default",
    description="It carries nothing before it has a sub-user.",
    tags=TAGS,
    security=SECURED,
    responses=errors(400, 401, 403, 409, 413, 422, 503),
)
async def create_provider(request: Request[Any, Any, Any], data: JSONBody[NewProvider]) -> Provider:
    template = store.known_template(data.template)
    wish = store.ProviderWish(
        slug=data.slug,
        title=data.title or data.slug,
        template=data.template,
        scheme=data.scheme or ("socks5" if "socks5" in template.schemes else "http"),
        host=data.host,
        port=data.port,
        country=data.country,
        minutes=data.minutes,
        cost_per_gb=data.cost_per_gb,
        enabled=data.enabled,
    )
    engine = services_of(request).engine
    return provider_view(await in_time(store.create_provider(engine, wish, actor=actor_of(request))))


@get(
    "/fleet/providers/{provider:str}",
    guards=[requires_operator],
    operation_id="getProvider",
    summary="One provider",
    tags=TAGS,
    security=SECURED,
    responses=_READ,
)
async def get_provider(request: Request[Any, Any, Any], provider: FromPath[str]) -> Provider:
    return provider_view(await in_time(store.read_provider(services_of(request).engine, known(provider))))


@put(
    "/fleet/providers/{provider:str}",
    guards=[requires_operator],
    dto=StrictBody[ProviderChange],
    operation_id="changeProvider",
    summary="Change a provider; its chips keep their labels",
    description=(
        "Any of the fields. `enabled: false`: its chips get labels at the default provider, one after another. A new "
        "gateway, country or scheme closes the tunnels of its chips, which come back through it."
    ),
    tags=TAGS,
    security=SECURED,
    responses=_WRITE,
)
async def change_provider(
    request: Request[Any, Any, Any], provider: FromPath[str], data: JSONBody[ProviderChange]
) -> Provider:
    engine, actor = services_of(request).engine, actor_of(request)
    changed = store.change_provider(engine, known(provider), changes_of(data), actor=actor)
    return provider_view(await in_time(changed))


@delete(
    "/fleet/providers/{provider:str}",
    guards=[requires_operator],
    operation_id="removeProvider",
    summary="Remove a provider that no chip goes out through, with its sub-users",
    description=(
        "409 `provider_in_use` while chips go out through it, `provider_has_usage` when it carried traffic this month."
    ),
    tags=TAGS,
    security=SECURED,
    responses=_READ | errors(409),
)
async def remove_provider(request: Request[Any, Any, Any], provider: FromPath[str]) -> None:
    engine = services_of(request).engine
    await in_time(store.remove_provider(engine, known(provider), actor=actor_of(request)))


@post(
    "/fleet/providers/{provider:str}/default",
    status_code=200,
    guards=[requires_operator],
    operation_id="setDefaultProvider",
    summary="Have new labels be this provider's",
    description="Chips keep the labels that they have, wherever these are.",
    tags=TAGS,
    security=SECURED,
    responses=_READ | errors(409),
)
async def set_default_provider(request: Request[Any, Any, Any], provider: FromPath[str]) -> Provider:
    engine = services_of(request).engine
    return provider_view(await in_time(store.set_default(engine, known(provider), actor=actor_of(request))))


@delete(
    "/fleet/providers/{provider:str}/trouble",
    status_code=200,
    guards=[requires_operator],
    operation_id="clearProviderTrouble",
    summary="Forget what was last told against a provider, so that chips try again at once",
    description="It is forgotten by itself ten minutes after it was told.",
    tags=TAGS,
    security=SECURED,
    responses=_READ,
)
async def clear_provider_trouble(request: Request[Any, Any, Any], provider: FromPath[str]) -> Provider:
    engine = services_of(request).engine
    cleared = store.clear_provider_trouble(engine, known(provider), actor=actor_of(request))
    return provider_view(await in_time(cleared))


@post(
    "/fleet/providers/{provider:str}/dry-run",
    status_code=200,
    guards=[requires_operator],
    dto=StrictBody[DryRun],
    operation_id="dryRunProvider",
    summary="The credential that a guard would show the provider, without its password; the body is optional",
    description="Asks nobody and changes nothing. `usable: false` comes with a sentence that says what to do.",
    tags=TAGS,
    security=SECURED,
    responses=_WRITE,
)
async def dry_run_provider(
    request: Request[Any, Any, Any], provider: FromPath[str], data: JSONBody[DryRun | None] = None
) -> DryRunResult:
    return await provider_dry_run.dry_run(services_of(request), known(provider), data or DryRun())


def known(slug: str) -> str:
    """The slug. Raises NotFound for what cannot be one."""
    if not store.may_be_slug(slug):
        raise store.unknown_provider()
    return slug
