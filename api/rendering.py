"""Chips as bytes: letter case, ETag, caching headers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from litestar import MediaType, Request, Response

from api.auth import ACCESS_COOKIE
from api.services import services_of
from core.domain.views import ChipView, StoredChip, chip_view

_VARY: Final = "Cookie, Authorization, Sec-Fetch-Mode"
_encoder = msgspec.json.Encoder()


def wants_lower_case(request: Request[Any, Any, Any]) -> bool:
    """A browser compares the status in lower case; the documented API shows it in upper case."""
    case = services_of(request).settings.api.status_case
    if case != "auto":
        return case == "lower"
    return bool(request.cookies.get(ACCESS_COOKIE)) or "sec-fetch-mode" in request.headers


def view(request: Request[Any, Any, Any], chip: StoredChip) -> ChipView:
    proxy_enabled = services_of(request).proxy_enabled
    return chip_view(chip, proxy_enabled=proxy_enabled, lower_case=wants_lower_case(request))


def rendered(
    request: Request[Any, Any, Any], chip: StoredChip, headers: dict[str, str] | None = None
) -> Response[Any]:
    """The answer to a wish: the chip, and nothing that anybody keeps."""
    return Response(view(request, chip), headers=headers, media_type=MediaType.JSON)


def cached(
    request: Request[Any, Any, Any], user_id: str, chips: StoredChip | Sequence[StoredChip]
) -> Response[Any]:
    """200 with an ETag, or 304 when the caller has these very bytes.

    The tag is a hash over user and body, so it changes with every column that is shown, the container's
    too, and one user's tag never fits another's chips.
    """
    if isinstance(chips, StoredChip):
        body = _encoder.encode(view(request, chips))
    else:
        body = _encoder.encode([view(request, chip) for chip in chips])
    digest = hashlib.blake2b(user_id.encode() + b"\0" + body, digest_size=16).hexdigest()
    tag = f'W/"{digest}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": _VARY}
    if _matches(request.headers.get("if-none-match", ""), tag):
        return Response(None, status_code=304, headers=headers, media_type=MediaType.TEXT)
    return Response(msgspec.Raw(body), headers=headers, media_type=MediaType.JSON)


def _matches(if_none_match: str, tag: str) -> bool:
    """Weak comparison (RFC 9110, 8.8.3.2)."""
    candidates = [candidate.strip().removeprefix("W/") for candidate in if_none_match.split(",")]
    return "*" in candidates or tag.removeprefix("W/") in candidates
