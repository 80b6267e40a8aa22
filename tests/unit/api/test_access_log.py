"""The last net: what escapes every handler of the framework."""

from __future__ import annotations

from typing import Any, cast

import httpx
import pytest

from api.access_log import AccessLog
from api.metrics import Metrics


def client(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=cast(Any, AccessLog(app, Metrics())), raise_app_exceptions=True)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def test_an_error_before_the_answer_becomes_a_problem() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("secret detail")

    async with client(app) as http:
        answer = await http.get("/somewhere")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert (answer.json()["code"], answer.json()["instance"]) == ("internal_error", "/somewhere")
    assert "secret" not in answer.text


async def test_an_error_in_the_middle_of_an_answer_cuts_it() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("half way")

    async with client(app) as http:
        with pytest.raises(RuntimeError, match="half way"):
            await http.get("/")


async def test_what_an_answer_says_about_caching_stands() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"Cache-Control", b"private, no-cache")]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async with client(app) as http:
        answer = await http.get("/")
    assert answer.headers.get_list("cache-control") == ["private, no-cache"]
