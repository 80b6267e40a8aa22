"""The WAHA client against a scripted transport: no sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clients.waha import KEY_REJECTED, WahaClient, WahaClients, WrongState
from core.clients.waha_models import PNG_MAGIC, AlreadyExists, Qr, WahaProxy, WahaWebhook
from core.domain.facts import WahaStatus
from core.errors import BODY_LIMIT, DependencyError, Missing, Rejected, Throttled, Unavailable

KEY = "0123456789abcdef" * 4
SESSION: dict[str, Any] = {
    "name": "chip_1",
    "status": "WORKING",
    "me": {"id": "5511999990000@c.us", "pushName": "Ana", "lid": "1@lid"},
    "presence": None,
    "timestamps": {"activity": 1767225600000},
    "assignedWorker": "u1",
    "config": {
        "metadata": {"user": "42"},
        "proxy": {"server": "172.30.0.1:3128", "username": "label", "password": "hunter2"},
        "webhooks": [{"url": "http://api/hook", "events": ["session.status"], "hmac": {"key": "hookkey"}}],
    },
    "engine": {"engine": "GOWS"},
}

Respond = Callable[[httpx.Request], httpx.Response]


def client(respond: Respond) -> WahaClient:
    return WahaClients(transport=httpx.MockTransport(respond)).at("10.0.0.7", 3105, KEY)


def answering(status: int, body: Any = None, **headers: str) -> Respond:
    content = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
    return lambda _request: httpx.Response(status, content=content, headers=headers)


@pytest.mark.parametrize(
    ("engine", "connected"),
    [
        ({"engine": "GOWS", "gows": {"found": True, "connected": True}}, True),
        ({"engine": "GOWS", "gows": {"found": True, "connected": False}}, False),
        ({"engine": "GOWS"}, None),
        ({"engine": "NOWEB"}, None),
        ({}, None),
        (None, None),
    ],
)
async def test_a_probe_says_what_the_engine_says(engine: Any, connected: bool | None) -> None:
    probe = await client(answering(200, {**SESSION, "engine": engine})).probe("chip_1")
    assert probe.connected is connected
    assert (probe.session.status, probe.session.activity_ms) == (WahaStatus.WORKING, 1767225600000)


async def test_session_is_read_without_its_secrets() -> None:
    session = await client(answering(200, SESSION)).session("chip_1")
    assert session.status is WahaStatus.WORKING
    assert session.me_id == "5511999990000@c.us"
    assert session.me_push_name == "Ana"
    assert session.activity_ms == 1767225600000
    assert session.assigned_worker == "u1"
    assert session.config.metadata == {"user": "42"}
    assert session.config.webhooks == (WahaWebhook("http://api/hook", ("session.status",)),)
    assert session.config.proxy == WahaProxy("172.30.0.1:3128", "label", "hunter2")
    for secret in ("hunter2", "hookkey", "label"):
        assert secret not in repr(session)


async def test_nulls_and_left_out_fields_are_fine() -> None:
    bare = {"name": "a", "status": "STOPPED", "me": None, "timestamps": {"activity": None}, "config": None}
    session = await client(answering(200, bare)).session("a")
    assert session.config.proxy is None
    unfinished = await client(answering(200, {**bare, "config": {"proxy": {}}})).session("a")
    assert unfinished.config.proxy == WahaProxy("", "", "")
    assert (session.me_id, session.activity_ms, session.assigned_worker) == (None, None, None)


@pytest.mark.parametrize(
    ("call", "method", "target", "body"),
    [
        (lambda c: c.session("chip_1"), "GET", "/api/sessions/chip_1", None),
        (
            lambda c: c.create_session("chip_1", {"metadata": {}}),
            "POST",
            "/api/sessions",
            {"name": "chip_1", "config": {"metadata": {}}, "start": False},
        ),
        (
            lambda c: c.create_session("chip_1", {}, start=True),
            "POST",
            "/api/sessions",
            {"name": "chip_1", "config": {}, "start": True},
        ),
        (
            lambda c: c.update_session("chip_1", {"debug": True}),
            "PUT",
            "/api/sessions/chip_1",
            {"config": {"debug": True}},
        ),
        (lambda c: c.start("chip_1"), "POST", "/api/sessions/chip_1/start", None),
        (lambda c: c.stop("chip_1"), "POST", "/api/sessions/chip_1/stop", None),
        (lambda c: c.restart("chip_1"), "POST", "/api/sessions/chip_1/restart", None),
        (lambda c: c.logout("chip_1"), "POST", "/api/sessions/chip_1/logout", None),
        (lambda c: c.delete("chip_1"), "DELETE", "/api/sessions/chip_1", None),
        (lambda c: c.session("a/../b?c"), "GET", "/api/sessions/a%2F..%2Fb%3Fc", None),
    ],
)
async def test_each_call_sends_what_waha_documents(
    call: Callable[[WahaClient], Any], method: str, target: str, body: Any
) -> None:
    seen: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(201, json=SESSION)

    await call(client(respond))
    (request,) = seen
    assert request.method == method
    assert request.url.raw_path.decode() == target
    assert request.url.host == "10.0.0.7"
    assert request.url.port == 3105
    assert request.headers["x-api-key"] == KEY
    assert (json.loads(request.content) if request.content else None) == body


async def test_all_stored_sessions_are_listed() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        assert request.url.params["all"] == "true"
        return httpx.Response(200, json=[SESSION, SESSION | {"name": "chip_2"}])

    assert [session.name for session in await client(respond).sessions()] == ["chip_1", "chip_2"]


async def test_one_unknown_status_makes_the_list_unknown_not_shorter() -> None:
    body = [SESSION, SESSION | {"name": "chip_2", "status": "HIBERNATING"}]
    with pytest.raises(Unavailable) as caught:
        await client(answering(200, body)).sessions()
    assert caught.value.code == "waha_answer_unreadable"


async def test_create_clash_is_a_value() -> None:
    body = {"message": "exists", "error": "Unprocessable Entity", "statusCode": 422}
    assert await client(answering(422, body)).create_session("chip_1", {}) == AlreadyExists("chip_1")


async def test_stop_of_an_unknown_session_gives_none() -> None:
    assert await client(answering(201)).stop("chip_1") is None


async def test_qr_is_a_png_whose_content_stays_out_of_logs() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        assert request.headers["accept"] == "image/png"
        assert request.url.params["format"] == "image"
        return httpx.Response(200, content=PNG_MAGIC + b"pixels", headers={"Content-Type": "image/png"})

    qr = await client(respond).qr("chip_1")
    assert qr == Qr(PNG_MAGIC + b"pixels")
    assert qr.data_url.startswith("data:image/png;base64,iVBOR")
    assert "pixels" not in repr(qr)


async def test_qr_that_is_no_image_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await client(answering(200, {"value": "2@abc"})).qr("chip_1")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": "x", "session": "chip_1", "status": "WORKING", "expected": ["SCAN_QR_CODE"]}, "WORKING"),
        ({"error": "x", "session": "chip_1", "status": "FAILED", "expected": ["SCAN_QR_CODE"]}, "FAILED"),
        ({"error": "x", "session": "chip_1"}, None),
    ],
)
async def test_wrong_state_carries_the_status(body: dict[str, Any], status: str | None) -> None:
    with pytest.raises(WrongState) as caught:
        await client(answering(422, body)).qr("chip_1")
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (401, {"message": "Unauthorized", "statusCode": 401}, Rejected, KEY_REJECTED),
        (403, {"message": "Forbidden", "statusCode": 403}, Rejected, "rejected"),
        (404, {"message": "none", "error": "Not Found", "statusCode": 404}, Missing, "missing"),
        (404, b"<html>nginx</html>", Unavailable, "waha_not_found"),
        (400, {"message": ["bad"], "error": "Bad Request", "statusCode": 400}, Rejected, "rejected"),
        (422, {"message": "no", "error": "Unprocessable Entity", "statusCode": 422}, Rejected, "rejected"),
        (501, {"message": "no", "error": "Not Implemented", "statusCode": 501}, Rejected, "waha_unsupported"),
        (500, {"statusCode": 500}, Unavailable, "unavailable"),
        (502, b"", Unavailable, "unavailable"),
        (302, b"", Unavailable, "unavailable"),
        (200, b"<html>", Unavailable, "waha_answer_unreadable"),
        (200, b"", Unavailable, "waha_answer_unreadable"),
    ],
)
async def test_statuses_become_our_errors(
    status: int, body: Any, kind: type[DependencyError], code: str
) -> None:
    with pytest.raises(kind) as caught:
        await client(answering(status, body)).session("chip_1")
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert caught.value.system == "waha"


async def test_a_404_of_the_list_is_no_fact_about_sessions() -> None:
    body = {"message": "Cannot GET /api/sessions", "error": "Not Found", "statusCode": 404}
    with pytest.raises(Unavailable):
        await client(answering(404, body)).sessions()


async def test_throttled_says_for_how_long() -> None:
    with pytest.raises(Throttled) as caught:
        await client(answering(429, {}, **{"Retry-After": "7"})).sessions()
    assert caught.value.after_s == 7


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("garbage"),
        httpx.DecodingError("bad gzip"),
        httpx.PoolTimeout("full"),
        httpx.InvalidURL("bad"),
    ],
)
async def test_transport_errors_are_unavailable_and_chained(error: Exception) -> None:
    def respond(_request: httpx.Request) -> httpx.Response:
        raise error

    with pytest.raises(Unavailable) as caught:
        await client(respond).sessions()
    assert caught.value.__cause__ is error


async def test_a_body_that_trickles_is_cut_off_by_the_whole_calls_limit() -> None:
    class Trickle(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            while True:
                yield b" "
                await asyncio.sleep(0.005)

    transport = httpx.MockTransport(lambda _request: httpx.Response(200, stream=Trickle()))
    slow = WahaClients(transport=transport, read_timeout_s=0.05).at("10.0.0.7", 3105, KEY)
    with pytest.raises(Unavailable) as caught:
        await slow.sessions()
    assert caught.value.code == "timeout"


async def test_an_endless_answer_is_given_up() -> None:
    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            while True:
                yield b" " * 1_000_000

    transport = httpx.MockTransport(lambda _request: httpx.Response(200, stream=Endless()))
    with pytest.raises(Unavailable):
        await WahaClients(transport=transport).at("10.0.0.7", 3105, KEY).sessions()


async def test_a_500_that_repeats_the_request_keeps_its_secrets_to_itself() -> None:
    config = {
        "proxy": {"server": "1.2.3.4:1", "username": "lab", "password": 'quo"ted'},
        "webhooks": [{"url": "http://x/", "events": [], "hmac": {"key": "hmac-key-1"}}],
    }

    def respond(request: httpx.Request) -> httpx.Response:
        sent = json.loads(request.content)
        text = (
            f"proxy http://bob:sesame@1.2.3.4 refused {KEY} {sent['config']['proxy']['password']} hmac-key-1"
        )
        return httpx.Response(
            500,
            json={
                "exception": {"message": text},
                "request": {"body": sent},
                "statusCode": 500,
            },
        )

    with pytest.raises(Unavailable) as caught:
        await client(respond).create_session("chip_1", config)
    for secret in (KEY, 'quo"ted', 'quo\\"ted', "hmac-key-1", "sesame", "lab"):
        assert secret not in str(caught.value)
    assert "refused" in str(caught.value)


@given(
    filler=st.text(alphabet="XYZ {}:,/", max_size=300),
    secret=st.text(alphabet='abcdef0123456789"\\é\n', min_size=8, max_size=40),
    status=st.sampled_from([400, 422, 500, 503]),
    as_json=st.booleans(),
)
async def test_no_secret_survives_wherever_it_stands(
    filler: str, secret: str, status: int, as_json: bool
) -> None:
    text = filler + secret + filler
    body = json.dumps({"message": text}).encode() if as_json else text.encode()
    with pytest.raises(DependencyError) as caught:
        await client(answering(status, body)).update_session("a", {"proxy": {"password": secret}})
    said = str(caught.value)
    for spelling in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
        assert spelling not in said


CALLS: list[Callable[[WahaClient], Any]] = [
    lambda c: c.ping(),
    lambda c: c.version(),
    lambda c: c.server_status(),
    lambda c: c.sessions(),
    lambda c: c.session("a"),
    lambda c: c.create_session("a", {}),
    lambda c: c.update_session("a", {}),
    lambda c: c.start("a"),
    lambda c: c.stop("a"),
    lambda c: c.restart("a"),
    lambda c: c.logout("a"),
    lambda c: c.delete("a"),
    lambda c: c.qr("a"),
    lambda c: c.request_code("a", "5511999990000"),
]

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "name",
                    "status",
                    "me",
                    "config",
                    "timestamps",
                    "activity",
                    "statusCode",
                    "session",
                    "worker",
                ]
            )
            | st.text(max_size=5),
            children,
            max_size=5,
        )
    ),
    max_leaves=12,
)
BODIES = st.one_of(
    st.binary(max_size=300),
    JSON.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
    st.sampled_from(
        [b"[" * 100_000, b'{"a":' * 900 + b"1" + b"}" * 900, b'{"timestamps":{"activity":1e999}}']
    ),
)


@given(
    call=st.sampled_from(CALLS),
    status=st.integers(100, 999),
    body=BODIES,
    headers=st.dictionaries(
        st.sampled_from(["retry-after", "content-type", "content-encoding", "location"]),
        st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=12),
    ),
)
async def test_nothing_but_our_errors_escapes_whatever_the_server_sends(
    call: Callable[[WahaClient], Any], status: int, body: bytes, headers: dict[str, str]
) -> None:
    def respond(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, stream=httpx.ByteStream(body), headers=headers)

    error: DependencyError | None = None
    try:
        await call(client(respond))
    except DependencyError as raised:
        error = raised
    assert error is None or error.system == "waha"
    assert error is None or len(error.message) <= BODY_LIMIT + len("waha: ")


def test_the_key_is_in_no_repr() -> None:
    assert KEY not in repr(client(answering(200)))


def test_ipv6_addresses_are_bracketed() -> None:
    assert "http://[::1]:3100" in repr(WahaClients().at("::1", 3100, KEY))
