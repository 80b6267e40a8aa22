"""Who really calls, and over what, when reverse proxies stand in between."""

from __future__ import annotations

import ipaddress
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from litestar.connection import ASGIConnection
from litestar.types import Scope

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """Believes `X-Forwarded-*` from the listed addresses alone."""

    def __init__(self, networks: tuple[str, ...]) -> None:
        """`networks`: addresses or networks. Raises ValueError on anything else."""
        self._networks: tuple[Network, ...] = tuple(
            ipaddress.ip_network(text, strict=False) for text in networks
        )

    def is_https(self, scope: Scope) -> bool:
        """Whether the caller's own request came over https."""
        if self._trusts_sender(scope):
            forwarded = _header(scope, b"x-forwarded-proto")
            if forwarded:
                return forwarded.split(",", 1)[0].strip().lower() == "https"
        return scope.get("scheme") == "https"

    def host(self, scope: Scope) -> str:
        """Host and port that the caller asked for."""
        if self._trusts_sender(scope):
            forwarded = _header(scope, b"x-forwarded-host").split(",", 1)[0].strip()
            if forwarded:
                return forwarded
        return _header(scope, b"host")

    def client_address(self, scope: Scope) -> str:
        """The nearest address in the chain that is no proxy of ours."""
        client = scope["client"]
        address = client[0] if client else ""
        if not self._trusts_sender(scope):
            return address
        chain = [part.strip() for part in _header(scope, b"x-forwarded-for").split(",")]
        for hop in reversed([part for part in chain if part]):
            if not self._trusts(hop):
                return hop
            address = hop
        return address

    def _trusts_sender(self, scope: Scope) -> bool:
        # Asked twice a request: nothing is parsed for nobody.
        return bool(self._networks) and scope["client"] is not None and self._trusts(scope["client"][0])

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)


def _header(scope: Scope, name: bytes) -> str:
    """The first header of that name, which servers give in lower case; empty when there is none."""
    return next((value.decode("latin-1") for known, value in scope["headers"] if known == name), "")


def is_own_origin(
    connection: ASGIConnection[Any, Any, Any, Any], proxies: TrustedProxies, allowed: tuple[str, ...]
) -> bool:
    """Whether a page of ours, or one of the origins `allowed`, opened this socket.

    CORS does not hold for sockets: a browser sends its cookies along whatever page opens one, and says `Origin`.
    Who sends none is no browser. The scheme is left aside: TLS often ends before us.
    """
    origin = connection.headers.get("origin", "").strip().lower()
    if not origin or origin in {one.strip().rstrip("/").lower() for one in allowed}:
        return True
    try:
        host = urlsplit(origin).netloc
    except ValueError:
        return False
    return bool(host) and _without_port(host) == _without_port(proxies.host(connection.scope))


def _without_port(host: str) -> str:
    """As it is, but for the ports that a scheme means without saying."""
    host = host.strip().lower()
    return host.removesuffix(":443").removesuffix(":80")
