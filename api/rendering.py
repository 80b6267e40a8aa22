"""Chips as bytes, in the letter case that the caller reads."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import MediaType, Request, Response

from api.answers import Body
from api.auth import ACCESS_COOKIE
from api.chip_cache import UserChips
from api.services import services_of
from core.domain.views import ChipView, StoredChip, chip_view

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
    request: Request[Any, Any, Any], chips: UserChips, user_id: str, chip: StoredChip | None = None
) -> Response[Any]:
    """All of `chips`, or one of them: 200 with an ETag, or 304 when the caller has these very bytes."""
    lower_case = wants_lower_case(request)
    key = (None if chip is None else chip.id, lower_case)
    body = chips.bodies.get(key)
    if body is None:
        proxy_enabled = services_of(request).proxy_enabled
        views = [
            chip_view(one, proxy_enabled=proxy_enabled, lower_case=lower_case)
            for one in (chips.all if chip is None else (chip,))
        ]
        content = _encoder.encode(views if chip is None else views[0])
        body = chips.bodies[key] = Body(user_id, content)
    return body.answer(request.headers.get("if-none-match", ""))
