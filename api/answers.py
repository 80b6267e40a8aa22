"""Answers whose bytes are made once and sent many times."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from litestar import Response
from litestar.types import Receive, Scope, Send

_VARY: Final = b"Cookie, Authorization, Sec-Fetch-Mode"
_CACHING: Final = ((b"cache-control", b"private, no-cache"), (b"vary", _VARY))


class Body:
    """JSON bytes of one user, with the tag that is bound to both and the headers that go with them.

    The tag is a hash over user and bytes, so it changes with whatever is shown and one user's never fits
    another's.
    """

    def __init__(self, user_id: str, content: bytes) -> None:
        digest = hashlib.blake2b(user_id.encode() + b"\0" + content, digest_size=16).hexdigest()
        self.content = content
        self.tag = f'W/"{digest}"'
        self.unchanged_headers = ((b"etag", self.tag.encode()), *_CACHING)
        self.headers = (
            *self.unchanged_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
        )

    def matches(self, if_none_match: str) -> bool:
        """Weak comparison (RFC 9110, 8.8.3.2)."""
        if if_none_match == self.tag:
            return True
        candidates = [candidate.strip().removeprefix("W/") for candidate in if_none_match.split(",")]
        return "*" in candidates or self.tag.removeprefix("W/") in candidates


class Prepared(Response[Any]):
    """A body as it is, or a 304 for who has it; the framework has nothing left to encode."""

    def __init__(self, body: Body, if_none_match: str) -> None:
        unchanged = bool(if_none_match) and body.matches(if_none_match)
        super().__init__(None, status_code=304 if unchanged else 200)
        self._body = body

    def to_asgi_response(self, *_: Any, is_head_response: bool = False, **__: Any) -> Any:
        body, unchanged = self._body, self.status_code == 304

        async def send_it(_scope: Scope, _receive: Receive, send: Send) -> None:
            # A list of its own each time: whoever stands between may add to it.
            headers = list(body.unchanged_headers if unchanged else body.headers)
            await send({"type": "http.response.start", "status": self.status_code or 200, "headers": headers})
            content = b"" if unchanged or is_head_response else body.content
            await send({"type": "http.response.body", "body": content, "more_body": False})

        return send_it
