"""Bodies and answers of providers and their sub-users."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Final

import msgspec

from api import shapes
from api.bodies import Body
from core.domain import provider_rules as rules
from core.domain.accounts import FieldError
from core.domain.names import parse_id

_RULES: Final[Mapping[str, Callable[[Any], Any]]] = {
    "slug": rules.clean_slug,
    "title": rules.clean_title,
    "template": rules.clean_slug,
    "scheme": rules.clean_scheme,
    "host": rules.clean_host,
    "port": rules.clean_port,
    "country": rules.clean_country,
    "minutes": rules.clean_minutes,
    "cost_per_gb": rules.clean_cost,
}
_SHAPES: Final[Mapping[str, shapes.Shape]] = {
    "slug": shapes.SLUG,
    "template": shapes.SLUG,
    "title": shapes.TITLE,
    "scheme": shapes.SCHEME,
    "host": shapes.HOST,
    "port": shapes.between(*rules.PORTS),
    "country": shapes.COUNTRY,
    "minutes": shapes.between(*rules.MINUTES),
    "cost_per_gb": shapes.COST,
}


def _id(text: str) -> str:
    found = parse_id(text)
    if found is None:
        raise FieldError("Use o id como a lista o mostra.")
    return found


class NewProvider(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new provider.

    Attributes:
        slug: its key, in paths and for good. title: for people; the slug unless given.
        template: a slug of `GET /fleet/provider-templates`.
        scheme: `socks5` where the template has it, unless given.
        host, port: in the place of the template's gateway; `generic` has none.
        country: two letters. minutes: how long an exit shall stay, where the provider can be told.
        cost_per_gb: R$ a GiB, as text, such as "5.20".
    """

    slug: str
    template: str
    title: str | None = None
    scheme: str | None = None
    host: str | None = None
    port: int | None = None
    country: str = "br"
    minutes: int = 60
    cost_per_gb: str = "0"
    enabled: bool = True

    LABELS: ClassVar[Mapping[str, str]] = rules.FIELD_NAMES
    RULES: ClassVar[Mapping[str, Callable[[Any], Any]]] = _RULES
    SHAPES: ClassVar[Mapping[str, shapes.Shape]] = _SHAPES


class ProviderChange(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Any of the fields; null gives `host` or `port` back to the template."""

    title: str | msgspec.UnsetType = msgspec.UNSET
    scheme: str | msgspec.UnsetType = msgspec.UNSET
    host: str | msgspec.UnsetType | None = msgspec.UNSET
    port: int | msgspec.UnsetType | None = msgspec.UNSET
    country: str | msgspec.UnsetType = msgspec.UNSET
    minutes: int | msgspec.UnsetType = msgspec.UNSET
    cost_per_gb: str | msgspec.UnsetType = msgspec.UNSET
    enabled: bool | msgspec.UnsetType = msgspec.UNSET

    LABELS: ClassVar[Mapping[str, str]] = rules.FIELD_NAMES
    RULES: ClassVar[Mapping[str, Callable[[Any], Any]]] = _RULES
    SHAPES: ClassVar[Mapping[str, shapes.Shape]] = {
        name: shape for name, shape in _SHAPES.items() if name not in ("slug", "template")
    }


class NewSubUser(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new login at a provider.

    Attributes:
        password: sealed as it comes; no answer ever holds it.
        max_labels: how many live chips it carries at most; by the template's tunnels unless given.
    """

    login: str
    password: str
    max_labels: int | None = None
    enabled: bool = True

    LABELS: ClassVar[Mapping[str, str]] = rules.FIELD_NAMES
    RULES: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "login": rules.clean_login,
        "password": rules.clean_password,
        "max_labels": rules.clean_max_labels,
    }
    SHAPES: ClassVar[Mapping[str, shapes.Shape]] = {
        "login": shapes.LOGIN,
        "password": shapes.PROXY_PASSWORD,
        "max_labels": shapes.between(*rules.LABELS),
    }

    def __repr__(self) -> str:
        return f"NewSubUser(login={self.login!r}, password='***')"


class SubUserChange(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Any of the fields. A new password is tried at once: what was told against the login is forgotten."""

    password: str | msgspec.UnsetType = msgspec.UNSET
    max_labels: int | msgspec.UnsetType = msgspec.UNSET
    enabled: bool | msgspec.UnsetType = msgspec.UNSET

    LABELS: ClassVar[Mapping[str, str]] = rules.FIELD_NAMES
    RULES: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "password": rules.clean_password,
        "max_labels": rules.clean_max_labels,
    }
    SHAPES: ClassVar[Mapping[str, shapes.Shape]] = {
        "password": shapes.PROXY_PASSWORD,
        "max_labels": shapes.between(*rules.LABELS),
    }

    def __repr__(self) -> str:
        return "SubUserChange(***)"


class DryRun(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose credential to show; all of it may be left out.

    Attributes:
        chip_id: the label that this chip has there, else the one that it would get first.
        label: this label, in the place of a chip's.
        sub_user_id: this login, else the enabled one with the fewest labels.
    """

    chip_id: str | None = None
    label: str | None = None
    sub_user_id: str | None = None

    LABELS: ClassVar[Mapping[str, str]] = rules.FIELD_NAMES
    RULES: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "chip_id": _id,
        "label": rules.clean_label,
        "sub_user_id": _id,
    }
    SHAPES: ClassVar[Mapping[str, shapes.Shape]] = {
        "chip_id": shapes.UUID,
        "label": shapes.LABEL,
        "sub_user_id": shapes.UUID,
    }


class TemplateGateway(msgspec.Struct, frozen=True):
    """Where a provider is reached. `host`: null when the template has none. Of several ports a label keeps one."""

    host: str | None
    first_port: int | None
    last_port: int | None


class TemplateLifetime(msgspec.Struct, frozen=True):
    """Bounds of how long an exit can be asked to stay, in minutes."""

    least: int
    most: int


class ProviderTemplate(msgspec.Struct, frozen=True):
    """What is known of a provider's way of doing things.

    Attributes:
        verified: whether tests speak for it, and not the provider's documentation alone.
        schemes: gateway by `socks5` and `http`.
        username_format, password_format: how a credential is put together.
        label_length: fewest and most characters.
        lifetime: null = the provider cannot be told how long an exit shall stay.
        user_limit: longest user name that the provider is known to read.
        tunnels_per_sub_user: at a time.
    """

    slug: str
    verified: bool
    schemes: dict[str, TemplateGateway]
    username_format: str
    password_format: str
    country_case: str
    label_length: list[int]
    lifetime: TemplateLifetime | None
    user_limit: int
    tunnels_per_sub_user: int


class Provider(msgspec.Struct, frozen=True):
    """A provider.

    Attributes:
        verified: of its template; null when this release has no such template any more.
        host, port: null = the template's own.
        cost_per_gb: R$ a GiB.
        is_default: new labels are its.
        trouble: what guards told last against all of it, with a sentence; null for nothing.
        sub_users: how many. chips: that go out through it now. room: how many more its enabled sub-users carry.
    """

    slug: str
    title: str
    template: str
    verified: bool | None
    scheme: str
    host: str | None
    port: int | None
    country: str
    minutes: int
    cost_per_gb: str
    enabled: bool
    is_default: bool
    trouble: str | None
    trouble_text: str | None
    trouble_at: datetime | None
    sub_users: int
    chips: int
    room: int
    created_at: datetime
    updated_at: datetime


class ProxySubUser(msgspec.Struct, frozen=True):
    """A login at a provider; its password is never told. `chips`: that it carries now, of at most `max_labels`."""

    id: str
    provider: str
    login: str
    max_labels: int
    chips: int
    enabled: bool
    trouble: str | None
    trouble_text: str | None
    trouble_at: datetime | None
    created_at: datetime


class DryRunResult(msgspec.Struct, frozen=True):
    """What a guard would say to the provider, with `***` for the password.

    Attributes:
        usable: false = the provider would not understand it, or there is nothing to say; `problem` says what to do.
    """

    provider: str
    usable: bool
    problem: str | None
    sub_user: str | None
    label: str | None
    scheme: str | None
    host: str | None
    port: int | None
    username: str | None
    password: str | None
