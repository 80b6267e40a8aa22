"""What a chip sends before its tunnel: one CONNECT with Basic credentials, read strictly. Pure: no sockets.

Whatever is not exactly that is refused; there is nothing to be lenient for, since the three engines that speak here
send it alike.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

import msgspec

from core.domain.egress_errors import EgressError
from egress.errors import Refused

HEAD_LIMIT: Final = 8192
END: Final = b"\r\n\r\n"

_HEADERS: Final = 64
_LINE = re.compile(rb"CONNECT ([!-~]{1,300}) HTTP/1\.[01]")
_AUTHORITY = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253}):([0-9]{1,5})")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}):[ \t]*([\t -~\x80-\xff]*)")
_BASIC = re.compile(rb"[Bb][Aa][Ss][Ii][Cc] +([A-Za-z0-9+/]+={0,2})")


class Request(msgspec.Struct, frozen=True):
    """`host`: lower case, without brackets and final dot. `user`, `password`: as they were sent."""

    host: str
    port: int
    user: str
    password: str

    def __repr__(self) -> str:
        return f"Request(host={self.host!r}, port={self.port}, user='***', password='***')"


def parse(head: bytes) -> Request:
    """`head`: everything before the empty line. Raises Refused: BAD_REQUEST, or UNAUTHENTICATED without credentials."""
    line, *fields = head.split(b"\r\n")
    asked = _LINE.fullmatch(line)
    if asked is None or len(head) > HEAD_LIMIT or len(fields) > _HEADERS:
        raise Refused(EgressError.BAD_REQUEST)
    host, port = _authority(asked.group(1).decode("ascii"))
    credentials = None
    for field in fields:
        found = _HEADER.fullmatch(field)
        if found is None:
            raise Refused(EgressError.BAD_REQUEST)
        name, value = found.group(1).lower(), found.group(2)
        if name == b"proxy-authorization":
            if credentials is not None:
                raise Refused(EgressError.BAD_REQUEST)
            credentials = value
        elif name in (b"content-length", b"transfer-encoding") and value.strip() != b"0":
            raise Refused(EgressError.BAD_REQUEST)  # what follows is the tunnel, not a body
    if credentials is None:
        raise Refused(EgressError.UNAUTHENTICATED)
    return Request(host, port, *_basic(credentials))


def _authority(text: str) -> tuple[str, int]:
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        raise Refused(EgressError.BAD_REQUEST)
    port = int(found.group(2))
    host = found.group(1).strip("[]").removesuffix(".").lower()
    if not host or not 1 <= port <= 65_535:
        raise Refused(EgressError.BAD_REQUEST)
    return host, port


def _basic(value: bytes) -> tuple[str, str]:
    found = _BASIC.fullmatch(value.strip())
    if found is None:
        raise Refused(EgressError.UNAUTHENTICATED)
    try:
        user, colon, password = base64.b64decode(found.group(1), validate=True).decode("ascii").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise Refused(EgressError.UNAUTHENTICATED) from None
    if not colon:
        raise Refused(EgressError.UNAUTHENTICATED)
    return user, password
