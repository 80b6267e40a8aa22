"""The guard's client of the API: what it sends, what each answer becomes, and that no secret is told."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import msgspec
import pytest

from core.clients.guard_api import GuardApiClient
from core.domain.guard_wire import Answer, Ask, Renew, Renewed, Route, Standing, Upstream, Usage
from core.errors import DependencyError, Rejected, Throttled, Unavailable

KEY = bytes(range(32))
ASKED = Renew("node-1", 3, (Ask("a", 1),), (Ask("b", 2),))
ANSWER = Renewed(
    (Answer("a", Standing.GRANTED, 1, 2, 90.0),),
    (Route("a", "u", "c", 1, "label", Upstream("socks5", "gw", 1, "login", "hunter2", "generic")),),
)


def client(answer: Callable[[httpx.Request], httpx.Response]) -> GuardApiClient:
    return GuardApiClient("http://api/", "node-1", KEY, transport=httpx.MockTransport(answer))


async def test_requests_go_to_the_internal_routes_with_the_nodes_own_key() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=msgspec.json.encode(ANSWER))

    async with client(answer) as api:
        assert await api.renew(ASKED) == ANSWER
        await api.usage(Usage("node-1", "batch", ()))
        assert KEY.hex() not in repr(api)
    assert [request.url.path for request in seen] == ["/internal/guard/renew", "/internal/guard/usage"]
    assert {request.headers["authorization"] for request in seen} == {f"Guard node-1:{KEY.hex()}"}
    assert msgspec.json.decode(seen[0].content, type=Renew) == ASKED


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, Rejected),
        (403, Rejected),
        (422, Rejected),
        (429, Throttled),
        (302, Unavailable),
        (404, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
async def test_what_each_status_becomes(status: int, error: type[DependencyError]) -> None:
    async with client(lambda _: httpx.Response(status, text="hunter2")) as api:
        with pytest.raises(error) as caught:
            await api.renew(ASKED)
        assert "hunter2" not in str(caught.value)
        with pytest.raises(error):
            await api.usage(Usage("node-1", "batch", ()))


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"answers": [{"allocation_id": "hunter2", "standing": "x"}]}', b"\xff"]
)
async def test_an_answer_that_is_none_is_unavailable_and_not_quoted(body: bytes) -> None:
    async with client(lambda _: httpx.Response(200, content=body)) as api:
        with pytest.raises(Unavailable) as caught:
            await api.renew(ASKED)
    assert caught.value.code == "unreadable"
    assert caught.value.__cause__ is None
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("failure", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError])
async def test_no_vendor_error_escapes(failure: type[httpx.RequestError]) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise failure(f"hunter2 {request.headers}", request=request)

    async with client(fail) as api:
        with pytest.raises(Unavailable) as caught:
            await api.renew(ASKED)
    assert "hunter2" not in str(caught.value)
    assert KEY.hex() not in str(caught.value)
