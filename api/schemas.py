"""The bodies that come and go, as the OpenAPI document shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Final

import msgspec

from api import shapes
from api.bodies import Body
from core.domain import accounts as rules
from core.domain.accounts import FieldError
from core.domain.chip_rules import clean_alias
from core.domain.views import ExtraData

_LABELS: Final[Mapping[str, str]] = {
    "name": "Nome",
    "email": "Email",
    "phone": "Telefone",
    "password": "Senha",
    "document": "CPF/CNPJ",
    "alias": "Apelido",
    "company_name": "Empresa",
    "plan_slug": "Plano",
}


def _unless_empty(rule: Callable[[str], str]) -> Callable[[str], str]:
    """The settings page sends `""` for what nobody typed."""
    return lambda text: rule(text) if text else text


def _bounded(text: str) -> str:
    if len(text) > 40 or rules.has_control_characters(text):
        raise FieldError("Use até 40 caracteres.")
    return text


class Registration(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new account. `document`: CPF or CNPJ, with or without its mask; null or "" for none."""

    name: str
    email: str
    password: str
    phone: str
    company_name: str | None = None
    document: str | None = None
    plan_slug: str = "free"

    LABELS: ClassVar[Mapping[str, str]] = _LABELS
    RULES: ClassVar[Mapping[str, Callable[[str], Any]]] = {
        "name": rules.clean_name,
        "email": rules.clean_email,
        "password": rules.clean_password,
        "phone": rules.clean_phone,
        "company_name": rules.clean_company_name,
        "document": _unless_empty(rules.clean_document),
        "plan_slug": _bounded,
    }
    SHAPES: ClassVar[Mapping[str, shapes.Shape]] = {
        "name": shapes.NAME,
        "email": shapes.EMAIL,
        "password": shapes.PASSWORD,
        "phone": shapes.PHONE,
        "document": shapes.DOCUMENT,
    }


class Login(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """E-mail and password. Neither is checked for its form: a wrong one is just a wrong login."""

    email: str
    password: str

    LABELS: ClassVar[Mapping[str, str]] = _LABELS


class AccountChange(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Any of the fields. `""` leaves a value as it is; null clears `company_name` or `document`."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    phone: str | msgspec.UnsetType = msgspec.UNSET
    company_name: str | msgspec.UnsetType | None = msgspec.UNSET
    document: str | msgspec.UnsetType | None = msgspec.UNSET

    LABELS: ClassVar[Mapping[str, str]] = _LABELS
    RULES: ClassVar[Mapping[str, Callable[[str], Any]]] = {
        "name": _unless_empty(rules.clean_name),
        "phone": _unless_empty(rules.clean_phone),
        "company_name": rules.clean_company_name,
        "document": _unless_empty(rules.clean_document),
    }
    SHAPES: ClassVar[Mapping[str, shapes.Shape]] = {
        "name": shapes.or_empty(shapes.NAME),
        "phone": shapes.or_empty(shapes.PHONE),
        "document": shapes.DOCUMENT,
    }

    def changes(self) -> dict[str, str | None]:
        """The columns to write."""
        given = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return {name: value for name, value in given if value is not msgspec.UNSET and value != ""}


class NewChip(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new chip. `alias`: 3 to 100 characters, unique among one's chips whatever the letter case."""

    alias: str

    LABELS: ClassVar[Mapping[str, str]] = _LABELS
    RULES: ClassVar[Mapping[str, Callable[[str], Any]]] = {"alias": clean_alias}
    SHAPES: ClassVar[Mapping[str, shapes.Shape]] = {"alias": shapes.ALIAS}


class Reconnect(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`fresh`: consent to losing the credentials and pairing anew."""

    fresh: bool = False


class PlanFeatures(msgspec.Struct, frozen=True):
    api_access: bool
    webhooks: bool


class User(msgspec.Struct, frozen=True):
    """An account for its owner. `plan` is its name for people, `plan_slug` its key."""

    id: str
    email: str
    name: str
    phone: str
    company_name: str | None
    document: str | None
    credits: int
    plan: str
    plan_slug: str
    plan_features: PlanFeatures
    is_active: bool
    is_verified: bool
    created_at: datetime
    updated_at: datetime


class IssuedTokens(msgspec.Struct, frozen=True):
    access_token: str
    refresh_token: str
    token_type: str = "bearer"  # noqa: S105 - the scheme's name


class Session(msgspec.Struct, frozen=True):
    """Answer of register and login. The tokens stand twice: pages read `tokens`, scripts the top level."""

    user: User
    tokens: IssuedTokens
    access_token: str
    refresh_token: str
    token_type: str = "bearer"  # noqa: S105 - the scheme's name


class Chip(msgspec.Struct, frozen=True):
    """A chip. `status` is in lower case for browsers and in upper case for everybody else.

    `extra_data` holds at least these keys, and whatever trusted services annotated.
    """

    id: str
    alias: str
    session_id: str
    phone_number: str | None
    status: str
    health_score: int
    extra_data: ExtraData
    created_at: datetime
    updated_at: datetime
    connected_at: datetime | None
    last_activity_at: datetime | None


class QrCode(msgspec.Struct, frozen=True):
    """The QR of a chip.

    Attributes:
        qr, qr_code: the same `data:image/png;base64,...`; null unless `status` is SCAN_QR_CODE.
        status: WAHA's word, or null where a person must read `message`.
        message: never empty while `qr` is null.
    """

    qr: str | None
    qr_code: str | None
    expires_at: datetime | None
    status: str | None
    message: str


class Stored(msgspec.Struct, frozen=True):
    """`status`: `stored`, or `duplicate` for an event that was there already."""

    status: str


class Health(msgspec.Struct, frozen=True):
    status: str
    service: str


class Readiness(msgspec.Struct, frozen=True):
    """`status`: `ok`, or `degraded` while something that we can do without is away."""

    status: str
    service: str
    dependencies: dict[str, str]


class Container(msgspec.Struct, frozen=True):
    """A user's container, as operators see it; `container_id` is the allocation."""

    user_id: str
    container_name: str
    container_id: str | None
    job: str
    node: str | None
    address: str | None
    port: int | None
    base_url: str | None
    status: str
    phase: str
    reason: str | None
    image: str
    engine: str
    epoch: int | None
    chips: int
    created_at: datetime


class OwnContainer(msgspec.Struct, frozen=True):
    """A user's container, as its owner sees it: nothing of the host that it runs on."""

    container_name: str
    status: str
    phase: str
    reason: str | None
    reason_text: str | None
    port: int | None
    image: str
    engine: str
    chips: int
    created_at: datetime


class ContainerStats(msgspec.Struct, frozen=True):
    """What a container uses.

    Attributes:
        cpu_percent: 100 = one core. memory_limit_mb: the most that the plan allows.
        network_rx_bytes, network_tx_bytes: null as long as nothing meters the network.
        message: why the figures are null, for people.
    """

    user_id: str
    cpu_percent: float | None
    memory_usage_mb: float | None
    memory_limit_mb: float | None
    memory_percent: float | None
    network_rx_bytes: int | None
    network_tx_bytes: int | None
    sampled_at: datetime | None
    reason: str | None
    message: str | None


class ContainerLog(msgspec.Struct, frozen=True):
    """The newest lines of a container's log, oldest first, without secrets.

    Attributes:
        last_line: number of the newest line; rises by one a line.
        message: why there are none, or none newer; for people.
    """

    user_id: str
    lines: list[str]
    last_line: int
    read_at: datetime | None
    message: str | None


class RestartAccepted(msgspec.Struct, frozen=True):
    """The wish was accepted; the container's `reason` is `restarting` until it is back."""

    user_id: str
    status: str
    message: str


class ContainerAccess(msgspec.Struct, frozen=True):
    """How a trusted service reaches a user's WAHA. Secret."""

    user_id: str
    address: str
    port: int
    base_url: str
    api_key: str

    def __repr__(self) -> str:
        return f"ContainerAccess(user_id={self.user_id!r})"
