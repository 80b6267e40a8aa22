"""Providers, sub-users, labels and usage as answers show them."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from api.schemas_providers import (
    Provider,
    ProviderTemplate,
    ProxySubUser,
    TemplateGateway,
    TemplateLifetime,
)
from api.schemas_proxies import FleetProxyUsage, ProviderUsage, UserProviderUsage
from core.domain.egress_errors import EgressError
from core.domain.provider_rules import has_gateway
from core.domain.providers import Template
from core.domain.quota import GIB
from core.provider_templates import templates
from core.store.providers_admin import ProviderRow
from core.store.proxy_views import MonthUsage, UsageFigures
from core.store.sub_users_admin import SubUserRow

# What guards tell of a whole provider or login, for operators.
_TROUBLES: Final = {
    EgressError.TRAFFIC_EXHAUSTED: "O tráfego contratado acabou; compre mais no provedor e limpe este aviso.",
    EgressError.THREADS_EXHAUSTED: (
        "O login está no limite de conexões do provedor; cadastre outro sub-usuário ou diminua o máximo de chips."
    ),
    EgressError.PROXY_AUTH: "O provedor recusou o login; confira login e senha no painel dele e troque a senha aqui.",
}
_OTHER_TROUBLE: Final = (
    "O provedor recusou conexões; veja o código do aviso no runbook e limpe-o depois de corrigir."
)


def template_view(template: Template) -> ProviderTemplate:
    own = has_gateway(template)
    lifetime = template.lifetime
    return ProviderTemplate(
        slug=template.slug,
        verified=template.verified,
        schemes={
            name: TemplateGateway(
                host=gateway.host if own else None,
                first_port=gateway.first_port if own else None,
                last_port=gateway.last_port if own else None,
            )
            for name, gateway in template.schemes.items()
        },
        username_format=template.username,
        password_format=template.password,
        country_case=template.country_case,
        label_length=list(template.label_length),
        lifetime=None if lifetime is None else TemplateLifetime(lifetime.least, lifetime.most),
        user_limit=template.user_limit,
        tunnels_per_sub_user=template.tunnels_per_sub_user,
    )


def provider_view(row: ProviderRow) -> Provider:
    template = templates().get(row.template)
    return Provider(
        slug=row.slug,
        title=row.title,
        template=row.template,
        verified=None if template is None else template.verified,
        scheme=row.scheme,
        host=row.host,
        port=row.port,
        country=row.country,
        minutes=row.minutes,
        cost_per_gb=money(row.cost_per_gb),
        enabled=row.enabled,
        is_default=row.is_default,
        trouble=row.trouble,
        trouble_text=_trouble_text(row.trouble),
        trouble_at=row.trouble_at,
        sub_users=row.sub_users,
        chips=row.labels,
        room=row.room,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def sub_user_view(row: SubUserRow) -> ProxySubUser:
    return ProxySubUser(
        id=row.id,
        provider=row.provider_slug,
        login=row.login,
        max_labels=row.max_labels,
        chips=row.labels,
        enabled=row.enabled,
        trouble=row.trouble,
        trouble_text=_trouble_text(row.trouble),
        trouble_at=row.trouble_at,
        created_at=row.created_at,
    )


def usage_view(found: MonthUsage) -> FleetProxyUsage:
    used = sum(one.bytes_in + one.bytes_out for one in found.providers)
    return FleetProxyUsage(
        month=f"{found.month:%Y-%m}",
        bytes_used=used,
        gb_used=_gib(used),
        cost=f"{sum((one.cost for one in found.providers if one.cost is not None), Decimal(0)):.2f}",
        providers=[
            ProviderUsage(
                provider=one.provider,
                bytes_in=one.bytes_in,
                bytes_out=one.bytes_out,
                bytes_used=one.bytes_in + one.bytes_out,
                gb_used=_gib(one.bytes_in + one.bytes_out),
                cost=_cost(one),
                tunnels=one.tunnels,
                errors=one.errors,
            )
            for one in found.providers
        ],
        users=[
            UserProviderUsage(
                user_id=user.user_id,
                email=user.email,
                provider=one.provider,
                bytes_in=one.bytes_in,
                bytes_out=one.bytes_out,
                bytes_used=one.bytes_in + one.bytes_out,
                gb_used=_gib(one.bytes_in + one.bytes_out),
                cost=_cost(one),
                tunnels=one.tunnels,
            )
            for user in found.users
            for one in user.figures
        ],
    )


def money(amount: Decimal) -> str:
    """5.20, 5.1999: two decimals at least, four at most."""
    text = f"{amount:.4f}"
    return text.removesuffix("00") if text.endswith("00") else text.removesuffix("0")


def _trouble_text(trouble: str | None) -> str | None:
    if trouble is None:
        return None
    return next((text for error, text in _TROUBLES.items() if error == trouble), _OTHER_TROUBLE)


def _cost(figures: UsageFigures) -> str | None:
    return None if figures.cost is None else f"{figures.cost:.2f}"


def _gib(number: int) -> float:
    return float(round(Decimal(number) / GIB, 3))
