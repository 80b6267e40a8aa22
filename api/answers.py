"""Answers whose bytes are made once and sent many times."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from litestar import Response
from litestar.types import Receive, Scope, Send

_VARY: Final = b"Cookie, Authorization, Sec-Fetch-Mode"
_CACHING: Final = ((b"cache-control", b"private, no-cache"), (b"vary", _VARY))


class Prepared(Response[Any]):
    """Status, headers and bytes as they are: the framework has nothing left to encode, whoever it is sent to."""

    def __init__(self, status: int, headers: tuple[tuple[bytes, bytes], ...], content: bytes) -> None:
        super().__init__(None, status_code=status)
        self._start = {"type": "http.response.start", "status": status}
        self._headers = headers
        self._body = {"type": "http.response.body", "body": content, "more_body": False}

    def to_asgi_response(self, *_: Any, **__: Any) -> Any:
        return self._sent

    async def _sent(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        # Both are made anew each time: whoever stands between may add to them.
        start: Any = {**self._start, "headers": list(self._headers)}
        await send(start)
        body: Any = {**self._body}
        await send(body)


class Body:
    """JSON bytes of one user, with the tag that is bound to both and the answers that are made of them.

    The tag is a hash over user and bytes, so it changes with whatever is shown and one user's never fits
    another's.
    """

    def __init__(self, user_id: str, content: bytes) -> None:
        digest = hashlib.blake2b(user_id.encode() + b"\0" + content, digest_size=16).hexdigest()
        self.tag = f'W/"{digest}"'
        caching = ((b"etag", self.tag.encode()), *_CACHING)
        length = str(len(content)).encode()
        described = ((b"content-type", b"application/json"), (b"content-length", length))
        self._whole = Prepared(200, (*caching, *described), content)
        self._unchanged = Prepared(304, caching, b"")

    def answer(self, if_none_match: str) -> Prepared:
        """All of it, or 304 for who has it."""
        return self._unchanged if if_none_match and self.matches(if_none_match) else self._whole

    def matches(self, if_none_match: str) -> bool:
        """Weak comparison (RFC 9110, 8.8.3.2)."""
        if if_none_match == self.tag:
            return True
        candidates = [candidate.strip().removeprefix("W/") for candidate in if_none_match.split(",")]
        return "*" in candidates or self.tag.removeprefix("W/") in candidates
