"""What differs between providers of proxies, as data: how a credential is put together and what errors mean. Pure.

Templates stand in `core/providers.json`. A sub-user is one login at a provider; a label makes it sticky.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from string import Formatter
from typing import Final, Literal

import msgspec

from core.domain.egress_errors import EgressError
from core.domain.labels import cut

Scheme = Literal["socks5", "http"]

_NAMES: Final = frozenset({"login", "password", "country", "label", "minutes"})
# They would end the user's name, the password or the address wherever it is written as one (and GOWS does not encode).
_FORBIDDEN: Final = frozenset("@:/#? \t\r\n")
# RFC 1929: one byte holds the length.
_SOCKS_FIELD: Final = 255


class Unusable(StrEnum):
    """Why a provider would not understand a credential."""

    COUNTRY = "country"  # not two letters
    SUB_USER = "sub_user"  # no login or no password
    SCHEME = "scheme"  # the provider has no such gateway
    LABEL = "label"  # too short, or with characters that the provider does not take
    USER_NAME = "user_name"  # longer than the provider reads
    LOGIN = "login"  # holds a colon, or what is not ASCII
    PASSWORD = "password"  # noqa: S105 - a word; holds what is not ASCII
    LENGTH = "length"  # longer than SOCKS5 has room for


class CredentialRefused(ValueError):
    """A credential that its provider would not understand; no secret stands in it.

    Attributes:
        why: for those who say it in their own words.
    """

    def __init__(self, why: Unusable, message: str) -> None:
        super().__init__(message)
        self.why = why


class Gateway(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a provider is reached. Of several ports a label always takes the same one."""

    host: str
    first_port: int
    last_port: int


class Lifetime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long an exit is kept, in minutes; what is asked for beyond the bounds is brought to them."""

    least: int
    most: int


class ErrorRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`word` in an answer with `status` means `error`; an empty word stands for any answer with that status."""

    status: int
    word: str
    error: EgressError


class SubUser(msgspec.Struct, frozen=True):
    """One login at a provider."""

    login: str
    password: str

    def __repr__(self) -> str:
        return f"SubUser(login={self.login!r}, password='***')"


class Credential(msgspec.Struct, frozen=True):
    """What a guard says to an upstream."""

    scheme: Scheme
    host: str
    port: int
    username: str
    password: str

    def __repr__(self) -> str:
        return (
            f"Credential(scheme={self.scheme!r}, host={self.host!r}, port={self.port}, "
            f"username={self.username!r}, password='***')"
        )


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One provider.

    Attributes:
        schemes: gateway by scheme.
        username, password: formats of `{login}`, `{password}`, `{country}`, `{label}` and `{minutes}`.
        country_case: of the two letters of a country.
        label_alphabet: characters that a label may have.
        label_length: fewest and most of them.
        lifetime: None = the credential does not say how long an exit is kept.
        user_limit: longest user name that the provider is known to read, in characters.
        tunnels_per_sub_user: how many tunnels one login carries at a time.
        errors: the first rule that fits counts.
        verified: whether a test, and not the provider's documentation alone, speaks for it.
    """

    slug: str
    schemes: dict[Scheme, Gateway]
    username: str
    password: str
    country_case: Literal["lower", "upper"]
    label_alphabet: str
    label_length: tuple[int, int]
    lifetime: Lifetime | None
    user_limit: int
    tunnels_per_sub_user: int
    errors: tuple[ErrorRule, ...]
    verified: bool

    @property
    def where(self) -> Literal["username", "password"]:
        """Where the parameters go."""
        return "username" if "label" in _names(self.username) else "password"


def credential(
    template: Template,
    sub_user: SubUser,
    label: str,
    country: str,
    minutes: int,
    *,
    scheme: Scheme | None = None,
    host: str | None = None,
    port: int | None = None,
) -> Credential:
    """The credential of one label. `country`: two letters; `scheme`: None = SOCKS5 where the provider has it.

    `host`, `port`: in the place of the template's own.

    Raises CredentialRefused when the provider would not understand the result. For a dry run give a sub-user whose
    password is `***`.
    """
    if len(country) != 2 or not (country.isascii() and country.isalpha()):
        raise CredentialRefused(Unusable.COUNTRY, "a country is two letters")
    if not sub_user.login or not sub_user.password:
        raise CredentialRefused(Unusable.SUB_USER, "a sub-user has a login and a password")
    taken: Scheme = scheme or ("socks5" if "socks5" in template.schemes else "http")
    if taken not in template.schemes:
        raise CredentialRefused(Unusable.SCHEME, f"{template.slug} has no {taken}")
    gateway = template.schemes[taken]
    try:
        short = cut(label, template)
    except ValueError as error:
        raise CredentialRefused(Unusable.LABEL, str(error)) from None
    given = {
        "login": sub_user.login,
        "password": sub_user.password,
        "country": country.lower() if template.country_case == "lower" else country.upper(),
        "label": short,
        "minutes": str(_minutes(template.lifetime, minutes)),
    }
    username, password = template.username.format_map(given), template.password.format_map(given)
    if len(username) > template.user_limit:
        raise CredentialRefused(
            Unusable.USER_NAME,
            f"the user name has {len(username)} characters, {template.slug} reads {template.user_limit}",
        )
    if ":" in username or not (username.isascii() and username.isprintable()):
        raise CredentialRefused(Unusable.LOGIN, "a login holds ASCII characters and no colon")
    if not (password.isascii() and password.isprintable()):
        raise CredentialRefused(Unusable.PASSWORD, "a password holds ASCII characters")
    if max(len(username), len(password)) > _SOCKS_FIELD:
        raise CredentialRefused(
            Unusable.LENGTH, f"user name and password have {_SOCKS_FIELD} characters at most"
        )
    return Credential(taken, host or gateway.host, port or _port(gateway, short), username, password)


def upstream_error(rules: Sequence[ErrorRule], status: int, text: str) -> EgressError | None:
    """What an HTTP answer of an upstream means by the provider's rules; None when they say nothing of it."""
    folded = text.upper()
    for rule in rules:
        if rule.status == status and rule.word.upper() in folded:
            return rule.error
    return None


def problems(template: Template) -> list[str]:
    """Why a template cannot be used, a sentence each; looked at when a part starts."""
    name, found = template.slug or "(no slug)", []
    for what, text in (("username", template.username), ("password", template.password)):
        found += [f"{name}: the {what} {problem}" for problem in _format_problems(text)]
    if found:
        return found
    used = [*_names(template.username), *_names(template.password)]
    if used.count("label") != 1:
        found.append(f"{name}: the label stands once in a credential, not {used.count('label')} times.")
    if "login" not in _names(template.username) or "password" not in _names(template.password):
        found.append(f"{name}: the user name holds {{login}} and the password {{password}}.")
    if ("minutes" in used) != (template.lifetime is not None):
        found.append(f"{name}: {{minutes}} and a lifetime come together.")
    if template.lifetime is not None and not 1 <= template.lifetime.least <= template.lifetime.most:
        found.append(f"{name}: the lifetime's bounds are the wrong way round.")
    least, most = template.label_length
    if not 1 <= least <= most:
        found.append(f"{name}: the label's lengths are the wrong way round.")
    if not template.schemes:
        found.append(f"{name}: there is no gateway.")
    for scheme, gateway in template.schemes.items():
        if not gateway.host or not 1 <= gateway.first_port <= gateway.last_port <= 65_535:
            found.append(f"{name}: the gateway of {scheme} needs a host and ports.")
    if _FORBIDDEN & set(template.label_alphabet) or not template.label_alphabet.isascii():
        found.append(f"{name}: the label's alphabet holds a character that ends a name or an address.")
    if not 1 <= template.user_limit <= _SOCKS_FIELD or template.tunnels_per_sub_user < 1:
        found.append(f"{name}: the limits of user name and tunnels are too small or too large.")
    return found


def _names(text: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(text) if name is not None]


def _format_problems(text: str) -> Iterator[str]:
    try:
        parts = list(Formatter().parse(text))
    except ValueError:
        yield "is no format: a brace is not closed."
        return
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if name not in _NAMES:
            yield f"names {name!r}; there are {', '.join(sorted(_NAMES))}."
        if spec or conversion:
            yield f"may not say how {name!r} is written."


def _minutes(lifetime: Lifetime | None, minutes: int) -> int:
    return minutes if lifetime is None else min(max(minutes, lifetime.least), lifetime.most)


def _port(gateway: Gateway, label: str) -> int:
    ports = gateway.last_port - gateway.first_port + 1
    return gateway.first_port + int.from_bytes(label.encode()) % ports
