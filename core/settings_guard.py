"""Settings of the egress guard, and the figures that it refuses to start with. See `core.settings`."""

from __future__ import annotations

import re

import msgspec

from core.settings_reader import Reader, Secret, listen_address

# 10 % drift of the guard's clock and of the store's, and a second for what is on its way.
_MARGIN_SHARE = 0.19
_MARGIN_LEAST_S = 1.0
_RENEWALS = 4
_SECRET_LEAST = 32
_LOOPBACK = ("127.", "[::1]", "localhost:")


class GuardSettings(msgspec.Struct, frozen=True):
    """How the guard of one host behaves, and what API and daemon prove it with.

    Attributes:
        secret: what nodes' keys and labels are made from; empty in a guard.
        listen, status_listen: host:port for chips, and on loopback for `/health` and `/metrics`.
        node_id: of the Nomad node it runs on. key: that node's, 32 bytes as hexadecimal digits.
        destinations: hosts that tunnels may lead to, each with all below it; an address only as itself.
        ttl_s, renew_s, margin_s: of leases; see `core.domain.guard_wire`.
        head_s, connect_s: longest wait for a chip's request, and for the upstream.
        idle_s, life_s: after which a tunnel is closed, silent or not.
        direct: whether routes may leave through the host's own address.
    """

    listen: str
    status_listen: str
    node_id: str
    key: Secret
    api_url: str
    destinations: tuple[str, ...]
    ports: tuple[int, ...]
    ttl_s: float = 90
    renew_s: float = 10
    margin_s: float = 20
    tunnels: int = 2000
    head_s: float = 10
    connect_s: float = 15
    idle_s: float = 600
    life_s: float = 86_400
    direct: bool = False
    secret: Secret = Secret("")


def guard_settings(reader: Reader) -> GuardSettings:
    """Reads them all; what is wrong goes to `reader.problems`."""
    settings = GuardSettings(
        listen=listen_address(reader, "WAHAFLEET_GUARD_LISTEN"),
        status_listen=listen_address(reader, "WAHAFLEET_GUARD_STATUS_LISTEN"),
        node_id=reader.text("WAHAFLEET_GUARD_NODE_ID"),
        key=Secret(reader.parsed("WAHAFLEET_GUARD_KEY", _key, "64 hexadecimal digits", "")),
        api_url=reader.url("WAHAFLEET_GUARD_API_URL"),
        destinations=tuple(item.lower() for item in reader.items("WAHAFLEET_GUARD_DESTINATIONS")),
        ports=reader.parsed("WAHAFLEET_GUARD_PORTS", _ports, "a comma list of ports", ()),
        ttl_s=reader.number("WAHAFLEET_GUARD_TTL_S", least=1, most=3600),
        renew_s=reader.number("WAHAFLEET_GUARD_RENEW_S", least=0.05, most=600),
        margin_s=reader.number("WAHAFLEET_GUARD_MARGIN_S", least=0, most=3600),
        tunnels=reader.whole("WAHAFLEET_GUARD_TUNNELS", least=1, most=20_000),
        head_s=reader.number("WAHAFLEET_GUARD_HEAD_S", least=0.1, most=60),
        connect_s=reader.number("WAHAFLEET_GUARD_CONNECT_S", least=0.1, most=120),
        idle_s=reader.number("WAHAFLEET_GUARD_IDLE_S", least=1, most=86_400),
        life_s=reader.number("WAHAFLEET_GUARD_LIFE_S", least=1, most=31_536_000),
        direct=reader.choice("WAHAFLEET_GUARD_DIRECT", ("0", "1")) == "1",
        secret=Secret("" if reader.part == "egress" else reader.text("WAHAFLEET_GUARD_SECRET")),
    )
    reader.problems.extend(lease_problems(settings.ttl_s, settings.renew_s, settings.margin_s))
    if reader.part == "egress":
        reader.problems.extend(_missing(settings))
    return settings


def secret_problems(settings: GuardSettings, egress: str | None) -> list[str]:
    """Why API and daemon cannot work with this secret."""
    length = len(settings.secret.reveal())
    if 0 < length < _SECRET_LEAST:
        return [f"WAHAFLEET_GUARD_SECRET is too short: use {_SECRET_LEAST} random characters or more."]
    if not length and egress == "guard":
        return [
            "WAHAFLEET_GUARD_SECRET is needed with WAHAFLEET_EGRESS=guard: "
            f"use {_SECRET_LEAST} random characters or more."
        ]
    return []


def lease_problems(ttl_s: float, renew_s: float, margin_s: float) -> list[str]:
    """Why leases with these figures would not be safe, or not last."""
    found = []
    least_s = _MARGIN_SHARE * ttl_s + _MARGIN_LEAST_S
    if margin_s < least_s:
        found.append(
            f"WAHAFLEET_GUARD_MARGIN_S is too short: with a life of {ttl_s:g} s use at least {least_s:g} s, "
            "or two containers of a user could speak at once."
        )
    if renew_s > (ttl_s - margin_s) / _RENEWALS:
        found.append(
            f"WAHAFLEET_GUARD_RENEW_S is too long: use at most {max(0.0, (ttl_s - margin_s) / _RENEWALS):g} s, "
            "a quarter of what WAHAFLEET_GUARD_TTL_S leaves after WAHAFLEET_GUARD_MARGIN_S."
        )
    return found


def _missing(settings: GuardSettings) -> list[str]:
    found = []
    if not settings.node_id:
        found.append("WAHAFLEET_GUARD_NODE_ID is not set: name the Nomad node that the guard runs on.")
    if not settings.key.reveal():
        found.append("WAHAFLEET_GUARD_KEY is not set: a guard needs its node's key.")
    if not settings.status_listen.startswith(_LOOPBACK):
        found.append(
            "WAHAFLEET_GUARD_STATUS_LISTEN is for this machine alone: use an address that starts with 127."
        )
    if not settings.destinations or not settings.ports:
        found.append("WAHAFLEET_GUARD_DESTINATIONS and WAHAFLEET_GUARD_PORTS name what tunnels may lead to.")
    return found


def _key(text: str) -> str:
    if text and not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ValueError(text)
    return text.lower()


def _ports(text: str) -> tuple[int, ...]:
    found = tuple(int(item) for item in text.split(",") if item.strip())
    if any(not 1 <= port <= 65_535 for port in found):
        raise ValueError(text)
    return found
