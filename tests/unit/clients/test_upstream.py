"""The client of the WHAGO backend: every outcome is a value or one of our errors, and no error quotes a token."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from core.clients.upstream import ACCOUNT_REFUSED, TOKEN_REFUSED, UpstreamClient
from core.errors import DependencyError, Rejected, Unavailable

TOKEN = "eyJhbGciOiJIUzI1NiJ9.a-token-that-is-secret.signature"
GOOD = {"id": "x", "plan_slug": "free", "more": {"any": "thing"}}


def client(answer: Callable[[httpx.Request], Any], **more: Any) -> UpstreamClient:
    async def handle(request: httpx.Request) -> httpx.Response:
        found = answer(request)
        response: httpx.Response = await found if asyncio.iscoroutine(found) else found
        return response

    return UpstreamClient("https://whago.example/", transport=httpx.MockTransport(handle), **more)


async def refusal(answer: Callable[[httpx.Request], Any], **more: Any) -> DependencyError:
    async with client(answer, **more) as upstream:
        assert "whago.example" in repr(upstream)
        with pytest.raises(DependencyError) as caught:
            await upstream.profile(TOKEN)
    assert caught.value.system == "upstream"
    # Nobody's log may quote it, in a message or in a chained cause.
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    return caught.value


async def test_a_profile() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        assert str(request.url) == "https://whago.example/api/v1/users/me"
        return httpx.Response(200, json=GOOD)

    async with client(answer) as upstream:
        told = await upstream.profile(TOKEN)
    assert (told.id, told.plan_slug, told.is_active, told.email) == ("x", "free", True, None)


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (401, Rejected, TOKEN_REFUSED),
        (403, Rejected, ACCOUNT_REFUSED),
        *(
            (status, Unavailable, "unexpected_status")
            for status in (201, 204, 301, 302, 400, 404, 429, 500, 503)
        ),
    ],
)
async def test_statuses(status: int, kind: type[DependencyError], code: str) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(
            status, json=GOOD | {"token": TOKEN}, headers={"Location": "https://evil.example"}
        )

    error = await refusal(answer)
    assert (type(error), error.code) == (kind, code)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b'{"id": 1}', b"\xff", b"[" * 5000, b"x" * 300_000]
)
async def test_answers_that_are_no_profile(body: bytes) -> None:
    assert (await refusal(lambda _: httpx.Response(200, content=body))).code == "unreadable"


async def test_one_that_breaks() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(f"no route for {request.headers['authorization']}")

    assert (await refusal(answer)).code == "unreachable"


async def test_one_that_is_slow_is_given_up_as_a_whole() -> None:
    async def answer(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(30)
        return httpx.Response(200, json=GOOD)

    assert (await refusal(answer, timeout_s=0.05)).code == "timeout"


async def test_a_key_set() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert "authorization" not in request.headers
        return httpx.Response(200, json={"keys": [{"kty": "RSA"}, 5]})

    async with client(answer, keys_url="https://whago.example/keys") as upstream:
        assert await upstream.keys() == [{"kty": "RSA"}, 5]
