from __future__ import annotations

from typing import Any

import pytest
from litestar.connection import ASGIConnection

from api.proxies import TrustedProxies


def connection(
    client: str | None, scheme: str = "http", **headers: str
) -> ASGIConnection[Any, Any, Any, Any]:
    scope: Any = {
        "type": "http",
        "scheme": scheme,
        "client": None if client is None else (client, 1234),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }
    return ASGIConnection(scope)


PROXIES = TrustedProxies(("10.0.0.0/8", "192.168.1.1", "::1"))


@pytest.mark.parametrize(
    ("client", "scheme", "forwarded", "https"),
    [
        ("10.1.2.3", "http", "https", True),
        ("10.1.2.3", "http", "https, http", True),
        ("10.1.2.3", "http", "http", False),
        ("10.1.2.3", "https", "http", False),
        ("10.1.2.3", "https", None, True),
        ("::1", "http", "HTTPS", True),
        ("203.0.113.9", "http", "https", False),
        ("203.0.113.9", "https", "http", True),
        (None, "http", "https", False),
        ("not an address", "http", "https", False),
    ],
)
def test_https_is_believed_of_proxies_of_ours_alone(
    client: str | None, scheme: str, forwarded: str | None, https: bool
) -> None:
    headers = {} if forwarded is None else {"x_forwarded_proto": forwarded}
    assert PROXIES.is_https(connection(client, scheme, **headers).scope) is https


@pytest.mark.parametrize(
    ("client", "forwarded", "address"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("10.1.2.3", "198.51.100.1", "198.51.100.1"),
        ("10.1.2.3", "6.6.6.6, 198.51.100.1, 192.168.1.1", "198.51.100.1"),
        ("10.1.2.3", "10.9.9.9, 192.168.1.1", "10.9.9.9"),
        ("10.1.2.3", "", "10.1.2.3"),
        (None, "198.51.100.1", ""),
    ],
)
def test_the_callers_address(client: str | None, forwarded: str, address: str) -> None:
    assert PROXIES.client_address(connection(client, x_forwarded_for=forwarded).scope) == address


def test_a_setting_that_is_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match="does not appear"):
        TrustedProxies(("proxy.example",))
