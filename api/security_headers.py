"""Headers that tell a browser to do nothing with an answer that it need not do (OWASP, REST security cheat sheet)."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from importlib.resources import files
from typing import Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from api.proxies import TrustedProxies

# Nothing is loaded, run or framed: answers are data.
DATA_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"
_ALWAYS: Final = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
# A year. Without `includeSubDomains`: the other names of a domain are not ours to decide on.
_HSTS: Final = (b"strict-transport-security", b"max-age=31536000")
_CSP: Final = b"content-security-policy"


def page_policy(html: str) -> str:
    """The policy of a page of ours: its own files, and of what stands inside it only what stands there now."""

    def sources(tag: str) -> str:
        inline = re.findall(rf"<{tag}(?:\s[^>]*)?>(.+?)</{tag}>", html, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inline)
        return " ".join(["'self'", *(f"'sha256-{digest}'" for digest in digests)])

    return (
        f"default-src 'none'; script-src {sources('script')}; style-src {sources('style')}; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class SecurityHeaders:
    """Wraps an ASGI application; outside of all others, so that no answer is without."""

    def __init__(self, app: ASGIApp, proxies: TrustedProxies) -> None:
        self._app = app
        self._proxies = proxies
        self._data = (*_ALWAYS, (_CSP, DATA_POLICY.encode()))
        policy = page_policy((files("api") / "docs.html").read_text())
        self._page = (*_ALWAYS, (_CSP, policy.encode()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            await self._http(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message["headers"])
                headers += self._page if _is_page(headers) else self._data
                if self._proxies.is_https(scope):
                    headers.append(_HSTS)
                message["headers"] = headers
            await send(message)

        await self._app(scope, receive, sending)


def _is_page(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    for name, value in headers:
        if name.lower() == b"content-type":
            return value.startswith(b"text/html")
    return False
