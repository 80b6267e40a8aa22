"""The guard's requests to the API: leases and routes, and what chips used.

Every outcome is a value or an error of `core.errors`; neither the key nor a body ever stands in an error. The client
never retries by itself.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

import httpx
import msgspec

from core.domain.guard_wire import Renew, Renewed, Usage
from core.errors import Rejected, Throttled, Unavailable

SYSTEM: Final = "api"
RENEW_PATH: Final = "/internal/guard/renew"
USAGE_PATH: Final = "/internal/guard/usage"
KEY_REFUSED: Final = "guard_key_refused"

_ANSWER_LIMIT: Final = 16 * 1024 * 1024
_USAGE_S: Final = 5.0


class GuardApiClient:
    """All methods raise `DependencyError` and nothing else.

    Unavailable: no answer, a 5xx, or an answer that is none. Throttled: a 429. Rejected: it refuses the key or the
    node (code `guard_key_refused`), or does not understand the request.
    """

    def __init__(
        self,
        base_url: str,
        node_id: str,
        key: bytes,
        *,
        timeout_s: float = _USAGE_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`key`: of the node. `timeout_s`: for each step of a call; who calls bounds the whole."""
        self._base_url = base_url.rstrip("/")
        # trust_env off: a proxy variable of this host must never see the key. A redirect would carry it away.
        self._http = httpx.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            transport=transport,
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=4, max_keepalive_connections=2, keepalive_expiry=60),
            headers={
                "Authorization": f"Guard {node_id}:{key.hex()}",
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": "wahafleet",
            },
        )

    def __repr__(self) -> str:
        return f"GuardApiClient({self._base_url!r})"

    async def renew(self, renew: Renew) -> Renewed:
        """One batch of leases, with the routes of what is granted."""
        body = await self._post(RENEW_PATH, msgspec.json.encode(renew))
        try:
            return msgspec.json.decode(body, type=Renewed)
        except msgspec.DecodeError:
            # Not chained: its text may quote a route, credential and all.
            raise Unavailable(SYSTEM, "the answer is not what is documented", code="unreadable") from None

    async def usage(self, usage: Usage) -> None:
        """Count a batch; repeating it counts nothing twice."""
        await self._post(USAGE_PATH, msgspec.json.encode(usage))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _post(self, path: str, content: bytes) -> bytes:
        try:
            async with self._http.stream("POST", self._base_url + path, content=content) as answer:
                status, body = answer.status_code, bytearray()
                if 200 <= status < 300:
                    async for part in answer.aiter_bytes():
                        body += part
                        if len(body) > _ANSWER_LIMIT:
                            raise Unavailable(SYSTEM, "the answer is too long", code="unreadable")
        except httpx.TimeoutException:
            raise Unavailable(SYSTEM, "no answer in time", code="timeout") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ValueError):
            # Nothing is chained: the library's text may quote the request, key and all.
            raise Unavailable(SYSTEM, "no connection", code="unreachable") from None
        if 200 <= status < 300:
            return bytes(body)
        if status in (401, 403):
            raise Rejected(SYSTEM, f"it refuses this guard's key ({status})", code=KEY_REFUSED)
        if status == 429:
            raise Throttled(SYSTEM, "it asks to slow down", after_s=1)
        if status in (400, 413, 415, 422):
            raise Rejected(SYSTEM, f"it does not understand the request ({status})")
        raise Unavailable(SYSTEM, f"status {status}", code=f"status_{status}")
