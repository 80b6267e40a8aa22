"""The WHAGO backend, which issues tokens in attached mode and knows what its users may do.

Every outcome is a value or an error of `core.errors`. It is asked with the caller's own token and nothing of ours;
neither tokens nor bodies ever stand in an error. The client never retries by itself.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx
import msgspec

from core.errors import Rejected, Unavailable

T = TypeVar("T")

SYSTEM: Final = "upstream"
PROFILE_PATH: Final = "/api/v1/users/me"
TOKEN_REFUSED: Final = "upstream_token_refused"  # noqa: S105 - an error's code
ACCOUNT_REFUSED: Final = "upstream_account_refused"

_ANSWER_LIMIT: Final = 256 * 1024


class WireProfile(msgspec.Struct, frozen=True):
    """What we read of a user's profile; its other fields are WHAGO's alone.

    Attributes:
        id: whose it is; the token's `sub`, or the answer is believed in nothing.
        plan_slug: key of the plan.
    """

    id: str
    plan_slug: str
    is_active: bool = True
    email: str | None = None
    name: str | None = None
    phone: str | None = None
    company_name: str | None = None
    document: str | None = None


class _WireKeys(msgspec.Struct, frozen=True):
    keys: list[Any]


class UpstreamClient:
    """All methods raise `DependencyError` and nothing else.

    Unavailable: no answer in time, a 5xx, 429, a redirect, a 404 (whatever answers there is not WHAGO), or an answer
    that is not what is documented. Rejected: it refuses the token (code `upstream_token_refused`) or the account
    (`upstream_account_refused`).
    """

    def __init__(
        self,
        base_url: str,
        *,
        keys_url: str = "",
        timeout_s: float = 2.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`keys_url`: where the issuer's public keys are published. `timeout_s`: for a whole call."""
        self._base_url = base_url.rstrip("/")
        self._keys_url = keys_url
        self._timeout_s = timeout_s
        # trust_env off: a proxy variable of this host must never see a user's token. A redirect would carry it away.
        self._http = httpx.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            transport=transport,
            limits=httpx.Limits(max_connections=50, max_keepalive_connections=10, keepalive_expiry=15),
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": "wahafleet",
            },
        )

    def __repr__(self) -> str:
        return f"UpstreamClient({self._base_url!r})"

    async def profile(self, token: str) -> WireProfile:
        """The profile of the user whose access token this is."""
        return await self._get(
            self._base_url + PROFILE_PATH, WireProfile, {"Authorization": f"Bearer {token}"}
        )

    async def keys(self) -> list[Any]:
        """The members of the issuer's key set (RFC 7517), whatever they are."""
        return (await self._get(self._keys_url, _WireKeys, {})).keys

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _get(self, url: str, shape: type[T], headers: dict[str, str]) -> T:
        try:
            # httpx limits each step of a call; this limits the call.
            async with asyncio.timeout(self._timeout_s):
                status, body = await self._read(url, headers)
        except TimeoutError as error:
            raise Unavailable(SYSTEM, f"no answer within {self._timeout_s:g} s", code="timeout") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ValueError):
            # Nothing is chained: the library's text may quote the request, token and all.
            raise Unavailable(SYSTEM, "no connection", code="unreachable") from None
        if status == 401:
            raise Rejected(SYSTEM, "it refuses the caller's token", code=TOKEN_REFUSED)
        if status == 403:
            raise Rejected(SYSTEM, "it refuses the caller's account", code=ACCOUNT_REFUSED)
        if status != 200:
            raise Unavailable(SYSTEM, f"it answered {status}", code="unexpected_status")
        try:
            return msgspec.json.decode(body, type=shape)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Unavailable(SYSTEM, "its answer is not what is documented", code="unreadable") from None

    async def _read(self, url: str, headers: dict[str, str]) -> tuple[int, bytes]:
        async with self._http.stream("GET", url, headers=headers, timeout=self._timeout_s) as answer:
            body = bytearray()
            if answer.status_code == 200:
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > _ANSWER_LIMIT:
                        raise Unavailable(SYSTEM, "its answer is too long", code="unreadable")
            return answer.status_code, bytes(body)
