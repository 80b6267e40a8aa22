"""Reading one setting after the other from the environment, and remembering every problem.

`core.settings` is what the rest of the project uses; it names the settings and their limits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from core.variables import VARIABLES

T = TypeVar("T")

# A name or address, or what stands for the host's own.
_GUARD_HOST = re.compile(r"\{host_ip\}|\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+")
_RSA_BITS = 2048  # RFC 7518, 3.3


class Secret:
    """A text that never shows itself in repr, logs or errors; `reveal()` is the only way in."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class SettingsError(ValueError):
    """One or more settings are wrong; `problems` holds one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Reader:
    """The environment as one part of the system sees it; `problems` grows by a sentence for each."""

    def __init__(self, env: Mapping[str, str], part: str | None) -> None:
        self.env = env
        self.part = part
        self.problems: list[str] = []
        self._known = {variable.name: variable for variable in VARIABLES}

    def text(self, name: str) -> str:
        variable = self._known[name]
        value = self.env.get(name, "").strip()
        if value:
            return value
        if variable.default is None:
            if self.part is not None and self.part not in variable.needed_by:
                return ""
            self.problems.append(f"{name} is not set: {variable.about}")
            return ""
        return variable.default

    def parsed(self, name: str, parse: Callable[[str], T], rule: str, fallback: T) -> T:
        text = self.text(name)
        if not text and self._known[name].default is None:
            return fallback
        try:
            return parse(text)
        except ValueError:
            shown = "its value" if self._known[name].secret else f"{text!r}"
            self.problems.append(f"{name}: {shown} does not fit, it takes {rule}.")
            return fallback

    def number(self, name: str, *, least: float, most: float) -> float:
        def parse(text: str) -> float:
            value = float(text)
            if not least <= value <= most:
                raise ValueError(text)
            return value

        return self.parsed(name, parse, f"a number from {least:g} to {most:g}", least)

    def whole(self, name: str, *, least: int, most: int) -> int:
        def parse(text: str) -> int:
            value = int(text)
            if not least <= value <= most:
                raise ValueError(text)
            return value

        return self.parsed(name, parse, f"a whole number from {least} to {most}", least)

    def choice(self, name: str, options: tuple[str, ...]) -> str:
        def parse(text: str) -> str:
            if text not in options:
                raise ValueError(text)
            return text

        return self.parsed(name, parse, "one of " + ", ".join(options), options[0])

    def url(self, name: str) -> str:
        def parse(text: str) -> str:
            parts = urlsplit(text)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(text)
            return text.rstrip("/")

        return self.parsed(name, parse, "an address such as http://host:port", "")

    def optional_url(self, name: str) -> str:
        """The address, or "" for none."""
        return self.url(name) if self.text(name) else ""

    def items(self, name: str) -> tuple[str, ...]:
        return tuple(item.strip() for item in self.text(name).split(",") if item.strip())

    def secret(self, name: str) -> Secret:
        return Secret(self.text(name))

    def optional_secret(self, name: str) -> Secret | None:
        value = self.text(name)
        return Secret(value) if value else None


def fernet_keys(reader: Reader) -> tuple[Secret, ...]:
    """WAHAFLEET_SECRET_KEYS, newest first."""

    def parse(text: str) -> tuple[Secret, ...]:
        keys = tuple(key.strip() for key in text.split(",") if key.strip())
        for key in keys:
            Fernet(key)
        return tuple(Secret(key) for key in keys)

    return reader.parsed("WAHAFLEET_SECRET_KEYS", parse, "url-safe base-64 keys of 32 bytes each", ())


def database_url(reader: Reader) -> Secret:
    """WAHAFLEET_DATABASE_URL."""

    def parse(text: str) -> Secret:
        if not text.startswith("postgresql+asyncpg://"):
            raise ValueError(text)
        return Secret(text)

    rule = "a URL that starts with postgresql+asyncpg://"
    return reader.parsed("WAHAFLEET_DATABASE_URL", parse, rule, Secret(""))


def redis_url(reader: Reader) -> Secret | None:
    """WAHAFLEET_REDIS_URL; None for none."""

    def parse(text: str) -> Secret | None:
        parts = urlsplit(text)
        # What is no number raises ValueError when it is asked for.
        if text and (parts.scheme not in ("redis", "rediss", "unix") or parts.port == 0):
            raise ValueError(text)
        return Secret(text) if text else None

    rule = "an address such as redis://host:port/0, or nothing to run without a cache"
    return reader.parsed("WAHAFLEET_REDIS_URL", parse, rule, None)


def other_storages(reader: Reader) -> tuple[tuple[str, Secret], ...]:
    """WAHAFLEET_STORAGES as (id, DSN)."""

    def parse(text: str) -> tuple[tuple[str, Secret], ...]:
        pairs = [word.partition("=") for word in text.split()]
        ids = [id_ for id_, _, _ in pairs]
        if any(not id_ or len(id_) > 40 or not dsn for id_, _, dsn in pairs) or len(set(ids)) < len(ids):
            raise ValueError(text)
        if reader.text("WAHAFLEET_STORAGE_ID") in ids:
            raise ValueError(text)
        return tuple((id_, Secret(dsn)) for id_, _, dsn in pairs)

    rule = "id=DSN pairs with blanks between, each id once and none that WAHAFLEET_STORAGE_ID names"
    return reader.parsed("WAHAFLEET_STORAGES", parse, rule, ())


def public_key(reader: Reader, name: str) -> str:
    """An RSA public key in PEM, "" for none. Line ends may be written as `\\n`, which fits into one line."""

    def parse(text: str) -> str:
        pem = text.replace("\\n", "\n")
        try:
            key = load_pem_public_key(pem.encode()) if pem else None
        except UnsupportedAlgorithm as error:
            raise ValueError(text) from error
        if pem and not (isinstance(key, RSAPublicKey) and key.key_size >= _RSA_BITS):
            raise ValueError(text)
        return pem

    return reader.parsed(name, parse, f"an RSA public key of {_RSA_BITS} bits or more, in PEM", "")


def egress(reader: Reader) -> str | None:
    """WAHAFLEET_EGRESS; None when it is not set."""
    text = reader.text("WAHAFLEET_EGRESS")
    if text not in ("", "direct", "guard"):
        reader.problems.append(
            f"WAHAFLEET_EGRESS: {text!r} does not fit, it takes direct, guard, or nothing."
        )
    return text or None


def docker_network(reader: Reader) -> str:
    """WAHAFLEET_DOCKER_NETWORK; by default the one that goes with WAHAFLEET_EGRESS."""
    behind_firewall = reader.text("WAHAFLEET_EGRESS") == "guard"
    return reader.text("WAHAFLEET_DOCKER_NETWORK") or ("waha0" if behind_firewall else "bridge")


def guard_address(reader: Reader) -> str:
    """WAHAFLEET_GUARD_ADDRESS: `host:port`, whose host may be `{host_ip}`."""

    def parse(text: str) -> str:
        host, colon, port = text.rpartition(":")
        if not colon or not _GUARD_HOST.fullmatch(host) or not 1 <= int(port) <= 65_535:
            raise ValueError(text)
        return text

    return reader.parsed("WAHAFLEET_GUARD_ADDRESS", parse, "host:port without a scheme", "")


def exit_echo_url(reader: Reader) -> str | None:
    """WAHAFLEET_EXIT_ECHO_URL; None for `off`."""
    if reader.text("WAHAFLEET_EXIT_ECHO_URL") == "off":
        return None
    return reader.url("WAHAFLEET_EXIT_ECHO_URL")


def listen_address(reader: Reader, name: str) -> str:
    """`host:port`, or "" for nowhere. The host is spelt out: an address that listens everywhere is a choice."""

    def parse(text: str) -> str:
        host, _, port = text.rpartition(":")
        if text and not (host and port.isascii() and port.isdigit() and int(port) < 65536):
            raise ValueError(text)
        return text

    return reader.parsed(name, parse, "host:port, such as 127.0.0.1:8001", "")
