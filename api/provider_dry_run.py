"""What a guard would say to a provider, put together as it would do it, and shown without the password."""

from __future__ import annotations

from typing import Final

from api.deadline import in_time
from api.schemas_providers import DryRun, DryRunResult
from api.services import Services
from core.crypto import SecretUnreadable
from core.domain import labels as label_rules
from core.domain.provider_rules import said
from core.domain.providers import CredentialRefused, Scheme, SubUser, credential
from core.store import chips_admin, providers_admin, proxy_views, sub_users_admin
from core.store.intents import unknown_chip

MASK: Final = "***"
_SAMPLE: Final = "0123456789ab"
_NO_SUB_USER: Final = "Este provedor não tem sub-usuário habilitado; cadastre um ou habilite o que existe."
_NO_LABEL: Final = (
    "O rótulo deste chip depende de WAHAFLEET_GUARD_SECRET, que a API não tem; defina-o ou informe um rótulo."
)
_UNREADABLE: Final = "A senha guardada não abre com as chaves atuais; devolva a chave a WAHAFLEET_SECRET_KEYS ou informe a senha de novo."


async def dry_run(services: Services, slug: str, asked: DryRun) -> DryRunResult:
    """Raises NotFound for an unknown provider, sub-user or chip, Unavailable."""
    engine = services.engine
    provider = await in_time(providers_admin.read_provider(engine, slug))
    template = providers_admin.known_template(provider.template)
    found = await in_time(sub_users_admin.sub_user_for_dry_run(engine, slug, asked.sub_user_id))
    label = asked.label or await _label_of(services, slug, asked.chip_id)
    if found is None:
        return _refused(slug, _NO_SUB_USER, label=label)
    sub_user, sealed = found
    if label is None:
        return _refused(slug, _NO_LABEL, sub_user=sub_user.login)
    try:
        password = services.vault.sealer.open(sealed)
    except SecretUnreadable:
        return _refused(slug, _UNREADABLE, sub_user=sub_user.login, label=label)
    scheme: Scheme = "socks5" if provider.scheme == "socks5" else "http"
    try:
        for shown in (password, MASK):  # the real one is what is judged, the other one what is told
            made = credential(
                template,
                SubUser(sub_user.login, shown),
                label,
                provider.country,
                provider.minutes,
                scheme=scheme,
                host=provider.host,
                port=provider.port,
            )
    except CredentialRefused as error:
        return _refused(slug, said(error.why, template), sub_user=sub_user.login, label=label)
    return DryRunResult(
        provider=slug,
        usable=True,
        problem=None,
        sub_user=sub_user.login,
        label=label_rules.cut(label, template),
        scheme=made.scheme,
        host=made.host,
        port=made.port,
        username=made.username,
        password=made.password,
    )


async def _label_of(services: Services, slug: str, chip_id: str | None) -> str | None:
    """The chip's label at this provider, else the first that it would get; a sample for no chip.

    None when that cannot be told.
    """
    if chip_id is None:
        return _SAMPLE
    if await in_time(chips_admin.owner_of(services.engine, chip_id)) is None:
        raise unknown_chip()
    row = await in_time(proxy_views.chip_proxy(services.engine, chip_id))
    if row is not None and row.label is not None and row.provider == slug:
        return row.label
    secret = services.settings.guard.secret.reveal()
    return label_rules.label(secret.encode(), chip_id, 1) if secret else None


def _refused(
    slug: str, problem: str, *, sub_user: str | None = None, label: str | None = None
) -> DryRunResult:
    return DryRunResult(slug, False, problem, sub_user, label, None, None, None, None, None)
