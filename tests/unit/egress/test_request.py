"""What a chip may send before its tunnel, to the letter; and where tunnels may lead."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.domain.egress_errors import EgressError
from egress.destinations import Destinations
from egress.errors import Refused
from egress.request import HEAD_LIMIT, Request, parse


def basic(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


AUTH = f"Proxy-Authorization: Basic {basic('user:pass:word')}"


def head(*lines: str, line: str = "CONNECT g.whatsapp.net:443 HTTP/1.1") -> bytes:
    return "\r\n".join([line, *lines]).encode("latin-1")


def error_of(text: bytes) -> EgressError:
    with pytest.raises(Refused) as caught:
        parse(text)
    return caught.value.error


@pytest.mark.parametrize(
    ("line", "host", "port"),
    [
        ("CONNECT g.whatsapp.net:443 HTTP/1.1", "g.whatsapp.net", 443),
        ("CONNECT G.WhatsApp.NET.:5222 HTTP/1.0", "g.whatsapp.net", 5222),
        ("CONNECT 192.0.2.1:1 HTTP/1.1", "192.0.2.1", 1),
        ("CONNECT [2001:db8::1]:65535 HTTP/1.1", "2001:db8::1", 65535),
    ],
)
def test_where_it_wants_to_go(line: str, host: str, port: int) -> None:
    request = parse(head("Host: anything", AUTH, "User-Agent: Go-http-client/1.1", line=line))
    assert request == Request(host, port, "user", "pass:word")
    assert "pass" not in repr(request).replace("password", "")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "GET / HTTP/1.1",
        "connect a:1 HTTP/1.1",
        "CONNECT a:1 HTTP/2.0",
        "CONNECT a:1",
        "CONNECT  a:1 HTTP/1.1",
        "CONNECT a:1 HTTP/1.1 ",
        "CONNECT a HTTP/1.1",
        "CONNECT a: HTTP/1.1",
        "CONNECT :1 HTTP/1.1",
        "CONNECT .:1 HTTP/1.1",
        "CONNECT a:0 HTTP/1.1",
        "CONNECT a:65536 HTTP/1.1",
        "CONNECT a:-1 HTTP/1.1",
        "CONNECT a:1:1 HTTP/1.1",
        "CONNECT 2001:db8::1:443 HTTP/1.1",
        "CONNECT http://a:1 HTTP/1.1",
        "CONNECT u@a:1 HTTP/1.1",
        "CONNECT a:1/ HTTP/1.1",
        "CONNECT a%00:1 HTTP/1.1",
        "CONNECT ä:1 HTTP/1.1",
        f"CONNECT {'a' * 254}:1 HTTP/1.1",
    ],
)
def test_a_line_that_is_no_connect(line: str) -> None:
    assert error_of(head(AUTH, line=line)) is EgressError.BAD_REQUEST


@pytest.mark.parametrize(
    "lines",
    [
        (AUTH, AUTH),
        (AUTH, " folded"),
        (AUTH, "no colon"),
        (AUTH, ": no name"),
        (AUTH, "name : value"),
        (AUTH, "name: \x00"),
        (AUTH, "name: a\nb"),
        (AUTH, "name: a\rb"),
        (AUTH, "Content-Length: 5"),
        (AUTH, "Transfer-Encoding: chunked"),
        (AUTH, *(f"h{number}: x" for number in range(64))),
        (AUTH, "x: " + "y" * HEAD_LIMIT),
    ],
)
def test_fields_that_are_none(lines: tuple[str, ...]) -> None:
    assert error_of(head(*lines)) is EgressError.BAD_REQUEST


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("Authorization: Basic dTpw",),
        ("Proxy-Authorization: ",),
        ("Proxy-Authorization: Basic",),
        ("Proxy-Authorization: Bearer dTpw",),
        ("Proxy-Authorization: Basic dTp",),
        ("Proxy-Authorization: Basic dTpw dTpw",),
        ("Proxy-Authorization: Basic !!!!",),
        (f"Proxy-Authorization: Basic {basic('nocolon')}",),
        (f"Proxy-Authorization: Basic {basic('ü:p')}",),
    ],
)
def test_credentials_that_are_none(lines: tuple[str, ...]) -> None:
    assert error_of(head(*lines)) is EgressError.UNAUTHENTICATED


def test_the_scheme_and_the_field_are_read_in_any_case() -> None:
    assert parse(head(f"proxy-AUTHORIZATION:basic {basic('u:')}", "Content-Length: 0")).user == "u"


@given(st.binary(max_size=400) | st.binary(max_size=200).map(lambda tail: head(AUTH) + b"\r\n" + tail))
@example(b"")
def test_whatever_comes_is_a_request_or_refused(text: bytes) -> None:
    try:
        request = parse(text)
    except Refused as refused:
        found: Request | EgressError = refused.error
    else:
        found = request
    if isinstance(found, EgressError):
        assert found in (EgressError.BAD_REQUEST, EgressError.UNAUTHENTICATED)
    else:
        assert 1 <= found.port <= 65535
        assert found.host == found.host.lower().strip("[]")
        assert not set(found.host) & set(" /@\r\n\0%")


LIST = Destinations(("whatsapp.com", ".WhatsApp.net", "127.0.0.1", "[2001:db8::1]"), (443, 5222))


@pytest.mark.parametrize(
    "host",
    [
        "whatsapp.com",
        "web.whatsapp.com",
        "a.b.whatsapp.net",
        "127.0.0.1",
        "2001:db8::1",
        "2001:db8:0::1",
        "mmg-fna_1.whatsapp.net",
    ],
)
def test_what_is_listed_and_what_is_below_it(host: str) -> None:
    assert LIST.allows(host, 443)
    assert LIST.allows(host, 5222)
    assert not LIST.allows(host, 80)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "com",
        "evilwhatsapp.com",
        "whatsapp.com.evil.example",
        "whatsapp.com.",
        ".whatsapp.com",
        "a..whatsapp.com",
        "-a.whatsapp.com",
        "a b.whatsapp.com",
        "169.254.169.254",
        "127.0.0.2",
        "::1",
        "::ffff:127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "a" * 64 + ".whatsapp.com",
        ".".join(["a" * 60] * 5) + ".whatsapp.com",
    ],
)
def test_everything_else_is_not(host: str) -> None:
    assert not LIST.allows(host, 443)


def test_a_name_that_reads_as_a_number_is_never_a_name() -> None:
    for host in ("127.1", "2130706433", "0x7f000001", "0x"):
        assert not Destinations((host,), (443,)).allows(host, 443)


@given(st.text(max_size=30))
def test_no_text_slips_through(host: str) -> None:
    if LIST.allows(host, 443):
        assert host.endswith(("whatsapp.com", "whatsapp.net")) or host in ("127.0.0.1",) or ":" in host
    assert not Destinations((), (443,)).allows(host, 443)
