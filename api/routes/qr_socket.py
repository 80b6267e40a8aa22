"""The old socket: pushes what `GET /chips/{id}/qr` answers, on every change and every few seconds.

A browser shows no refused handshake to its page, so the socket is always accepted and then closed with a reason.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
import structlog
from litestar import WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect
from litestar.params import FromPath

from api.auth import Principal, authenticate_by_token
from api.chip_watch import ChipWatch
from api.deadline import in_time
from api.problems import STORE_AWAY
from api.proxies import is_own_origin
from api.services import Services, services_of
from api.streams import TOKEN_EXPIRED, End, first_of
from core.domain.names import parse_id
from core.errors import DependencyError, Forbidden, TooManyRequests, Unauthenticated
from core.store import queries
from core.store.intents import CHIP_NOT_FOUND

PUSH_S: Final = 5.0
# RFC 6455, 7.4.1, and its registry: policy, unsupported data, internal error, try again later, going away.
_POLICY, _BAD_DATA, _BROKEN, _LATER, _LEAVING = 1008, 1003, 1011, 1013, 1001
_REASON_BYTES: Final = 123  # RFC 6455, 5.5: a control frame has 125, two of them are the code
_MALFORMED: Final = "Chip inválido"
_FOREIGN_ORIGIN: Final = "Origem não permitida. Abra a página pelo endereço deste serviço."

_log = structlog.get_logger("api.socket")
Socket = WebSocket[Any, Any, Any]


class _Refused(Exception):
    """The socket is closed with this code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@websocket("/chips/ws/{chip_id:str}/qr")
async def push_qr(socket: Socket, chip_id: FromPath[str]) -> None:
    """See `rest-api.md`, section 4. Closes by itself with the caller's token, the chip, or the process."""
    await socket.accept()
    code, reason = _LEAVING, ""
    try:
        end = await _pushed(socket, chip_id)
        code, reason = (_POLICY if end is TOKEN_EXPIRED else _LEAVING), end.detail
    except _Refused as refused:
        code, reason = refused.code, refused.reason
    except (Unauthenticated, Forbidden) as error:
        code, reason = _POLICY, error.message
    except TooManyRequests as error:
        code, reason = _LATER, error.message
    except (WebSocketDisconnect, _Gone):
        return
    except DependencyError as error:
        _log.warning("dependency_away", system=error.system, error=error.message, path=socket.url.path)
        code, reason = _LATER, STORE_AWAY
    except Exception:
        _log.exception("socket_broke", path=socket.url.path)
        code = _BROKEN
    await _closed(socket, code, reason)


async def _pushed(socket: Socket, chip_id: str) -> End:
    services = services_of(socket)
    if not is_own_origin(socket, services.proxies, services.settings.api.cors_origins):
        raise _Refused(_POLICY, _FOREIGN_ORIGIN)
    principal = await authenticate_by_token(socket)
    if principal.account is None:
        raise _Refused(_POLICY, "Esta rota pertence a um usuário. Entre com o token de um usuário.")
    known = parse_id(chip_id)
    if known is None:
        raise _Refused(_BAD_DATA, _MALFORMED)
    user_id = principal.account.id
    if await in_time(queries.read_chip(services.engine, user_id, known)) is None:
        return await _unknown(socket, services)
    with services.streams.seat(user_id):
        watch = ChipWatch(services, user_id, known)
        return await _watched(socket, services, watch, principal)


async def _watched(socket: Socket, services: Services, watch: ChipWatch, principal: Principal) -> End:
    async def follow() -> None:
        async for _ in watch.looks():
            pass

    async def push() -> None:
        async for code in watch.qr(PUSH_S):
            await _send(socket, services, code)

    end = await first_of(
        services.streams.time_is_up(principal.expires_at), _hung_up(socket), follow(), push()
    )
    # Only a chip that is gone ends a look without a word.
    return end if isinstance(end, End) else await _unknown(socket, services)


async def _unknown(socket: Socket, services: Services) -> End:
    await _send(socket, services, {"error": CHIP_NOT_FOUND})
    raise _Refused(_BROKEN, CHIP_NOT_FOUND)


class _Gone(Exception):
    """Nobody reads any more."""


async def _send(socket: Socket, services: Services, data: Any) -> None:
    try:
        async with asyncio.timeout(services.streams.limits.send_s):
            await socket.send_text(msgspec.json.encode(data).decode())
    except TimeoutError as error:
        raise _Gone from error


async def _hung_up(socket: Socket) -> None:
    """Reads and forgets whatever comes, until the other side is gone."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise _Gone


async def _closed(socket: Socket, code: int, reason: str) -> None:
    """The other side may be faster: then there is nobody to tell."""
    short = reason.encode()[:_REASON_BYTES].decode("utf-8", "ignore")
    try:
        async with asyncio.timeout(5):
            await socket.close(code=code, reason=short)
    except (TimeoutError, RuntimeError, WebSocketDisconnect):
        _log.debug("socket_gone", code=code)
