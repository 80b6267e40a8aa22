"""What an operator may write of a provider and its sub-users, and what is said of a credential that cannot be. Pure.

Every refusal is one sentence in Brazilian Portuguese that names the next thing to try.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from core.domain.accounts import FieldError, has_control_characters
from core.domain.providers import Template, Unusable

SLUG_LIMIT: Final = 40
TITLE_LIMIT: Final = 80
HOST_LIMIT: Final = 253
LOGIN_LIMIT: Final = 120
PASSWORD_LIMIT: Final = 200
PORTS: Final = (1, 65_535)
MINUTES: Final = (1, 10_080)
LABELS: Final = (1, 100_000)
# Tunnels that a chip holds at its busiest: its socket, and media that come and go.
TUNNELS_A_CHIP: Final = 10

# What people call a field.
FIELD_NAMES: Final[Mapping[str, str]] = {
    "slug": "Nome",
    "title": "Título",
    "template": "Modelo",
    "scheme": "Protocolo",
    "host": "Host",
    "port": "Porta",
    "country": "País",
    "minutes": "Minutos",
    "cost_per_gb": "Preço por GB",
    "login": "Login",
    "password": "Senha",
    "max_labels": "Máximo de chips",
    "label": "Rótulo",
    "chip_id": "Chip",
    "sub_user_id": "Sub-usuário",
}

_SLUG: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}", re.ASCII)
_HOST: Final = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*",
    re.ASCII,
)
_COST: Final = re.compile(r"[0-9]{1,6}(?:[.,][0-9]{1,4})?", re.ASCII)
# A template without a gateway of its own, such as `generic`, names a host that never is one (RFC 6761).
_NO_HOST: Final = ".invalid"


def clean_slug(text: str) -> str:
    if not _SLUG.fullmatch(text):
        raise FieldError("Use de 1 a 40 letras minúsculas, números e hífens, começando por letra ou número.")
    return text


def clean_title(text: str) -> str:
    if not 1 <= len(text) <= TITLE_LIMIT or has_control_characters(text):
        raise FieldError(f"Use de 1 a {TITLE_LIMIT} caracteres em uma linha.")
    return text


def clean_scheme(text: str) -> str:
    if text not in ("socks5", "http"):
        raise FieldError("Use socks5 ou http.")
    return text


def clean_host(text: str) -> str:
    """A host name or an IPv4 address, lower case."""
    if not _HOST.fullmatch(text):
        raise FieldError(
            "Use só o nome ou o endereço do gateway, como gw.exemplo.com, sem porta nem http://."
        )
    return text.lower()


def clean_country(text: str) -> str:
    """ISO 3166-1 alpha-2, lower case."""
    if not (len(text) == 2 and text.isascii() and text.isalpha()):
        raise FieldError("Use o código de duas letras do país, como br.")
    return text.lower()


def clean_port(number: int) -> int:
    return _within(number, PORTS)


def clean_minutes(number: int) -> int:
    return _within(number, MINUTES)


def clean_max_labels(number: int) -> int:
    return _within(number, LABELS)


def clean_cost(text: str) -> str:
    """R$ a GiB, up to four decimals; a comma counts as a point."""
    if not _COST.fullmatch(text):
        raise FieldError("Use o preço por GB em reais, de 0 a 999999,9999, como 5,20.")
    return f"{Decimal(text.replace(',', '.')):.4f}"


def clean_login(text: str) -> str:
    if not 1 <= len(text) <= LOGIN_LIMIT or ":" in text or not _visible(text):
        raise FieldError(f"Use de 1 a {LOGIN_LIMIT} caracteres ASCII visíveis, sem espaços nem dois-pontos.")
    return text


def clean_password(text: str) -> str:
    if not 1 <= len(text) <= PASSWORD_LIMIT or not _visible(text):
        raise FieldError(f"Use de 1 a {PASSWORD_LIMIT} caracteres ASCII visíveis, sem espaços.")
    return text


def clean_label(text: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z_]{1,64}", text, re.ASCII):
        raise FieldError("Use de 1 a 64 letras, números e sublinhados.")
    return text


def has_gateway(template: Template) -> bool:
    """Whether the template itself says where its provider is reached."""
    return not any(gateway.host.endswith(_NO_HOST) for gateway in template.schemes.values())


def gateway_problems(
    template: Template, scheme: str, host: str | None, port: int | None
) -> Mapping[str, str]:
    """What speaks against reaching a provider of this template there: field -> sentence."""
    if scheme not in template.schemes:
        there = " ou ".join(sorted(template.schemes))
        return {"scheme": f"O modelo {template.slug} não tem {scheme}; use {there}."}
    if not has_gateway(template) and host is None:
        return {
            "host": f"O modelo {template.slug} não tem um gateway próprio; informe o host do seu provedor."
        }
    if host is not None and host.endswith(_NO_HOST):
        return {"host": "Esse endereço nunca existe; informe o host do seu provedor."}
    if not has_gateway(template) and port is None:
        return {
            "port": f"O modelo {template.slug} não tem um gateway próprio; informe a porta do seu provedor."
        }
    return {}


def max_labels_of(template: Template) -> int:
    """How many chips a sub-user carries unless somebody says so."""
    return max(1, template.tunnels_per_sub_user // TUNNELS_A_CHIP)


def said(why: Unusable, template: Template) -> str:
    """What is wrong with a credential, for an operator."""
    match why:
        case Unusable.COUNTRY:
            return "O país do provedor não tem duas letras; corrija-o, como br."
        case Unusable.SUB_USER:
            return "O sub-usuário não tem login ou senha; informe os dois."
        case Unusable.SCHEME:
            there = " ou ".join(sorted(template.schemes))
            return f"O modelo {template.slug} não tem esse protocolo; use {there}."
        case Unusable.LABEL:
            least, most = template.label_length
            size = f"{least}" if least == most else f"de {least} a {most}"
            return (
                f"O modelo {template.slug} não aceita esse rótulo; use {size} caracteres dos que ele conhece."
            )
        case Unusable.USER_NAME:
            return (
                f"O nome de usuário montado passa dos {template.user_limit} caracteres que o modelo "
                f"{template.slug} lê; use um sub-usuário de login mais curto."
            )
        case Unusable.LOGIN:
            return "O login tem caracteres que o provedor não entende; use ASCII sem dois-pontos."
        case Unusable.PASSWORD:
            return "A senha tem caracteres que o provedor não entende; defina outra só com ASCII."
        case Unusable.LENGTH:
            return "Usuário e senha têm no máximo 255 caracteres no SOCKS5; use um login ou uma senha mais curta."


def _within(number: int, bounds: tuple[int, int]) -> int:
    least, most = bounds
    if not least <= number <= most:
        raise FieldError(f"Use um número de {least} a {most}.")
    return number


def _visible(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text
