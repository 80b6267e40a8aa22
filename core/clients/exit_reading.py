"""A look at the address under which a label leaves its provider: asked of an echo address, through the label itself.

Nothing here goes out but through the upstream, which also resolves the echo address' name.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from typing import Final
from urllib.parse import urlsplit

import h11
import httpx

from core.clients.tunnels import Opened, Refused, opened
from core.domain.egress_errors import EgressError
from core.domain.guard_wire import Upstream
from core.domain.routes import Reading
from core.provider_templates import templates

TIMEOUT_S: Final = 8.0
AT_ONCE: Final = 32
_ANSWER_LIMIT: Final = 4096


class ExitReader:
    """Reads exits, a few at once.

    Args:
        echo_url: http or https; answers the caller's own address as plain text.
        timeout_s: the longest that one reading may take, tunnel included.
        at_once: so many readings at the same time; `is_busy` says that no other one should begin now.
    """

    def __init__(self, echo_url: str, *, timeout_s: float = TIMEOUT_S, at_once: int = AT_ONCE) -> None:
        url = urlsplit(echo_url)
        secure = url.scheme == "https"
        self._host = url.hostname or ""
        self._port = url.port or (443 if secure else 80)
        self._target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        self._netloc = url.netloc.rpartition("@")[2]
        self._tls = httpx.create_ssl_context() if secure else None
        self._at_once = at_once
        self._under_way = 0
        self.timeout_s = timeout_s

    @property
    def is_busy(self) -> bool:
        return self._under_way >= self._at_once

    async def read(self, upstream: Upstream) -> Reading:
        """The exit's address, or why there was none to be had. Never raises."""
        template = templates().get(upstream.provider)
        rules = template.errors if template is not None else ()
        self._under_way += 1
        try:
            async with asyncio.timeout(self.timeout_s):
                found = await opened(
                    upstream,
                    self._host,
                    self._port,
                    may_send=lambda: True,
                    timeout_s=self.timeout_s,
                    rules=rules,
                )
                return Reading(await self._asked(found), None)
        except Refused as refused:
            return Reading(None, refused.error)
        except (TimeoutError, OSError):  # TLS that fails is one too
            return Reading(None, EgressError.PROXY_UNREACHABLE)
        except (h11.RemoteProtocolError, ValueError):
            return Reading(None, EgressError.PROXY_PROTOCOL)
        finally:
            self._under_way -= 1

    async def _asked(self, tunnel: Opened) -> str:
        """Raises OSError, RemoteProtocolError, and ValueError for an answer that is no address."""
        if tunnel.early:
            tunnel.sock.close()
            raise ValueError("the echo address speaks first")
        name = self._host if self._tls is not None else None
        try:
            reader, writer = await asyncio.open_connection(
                sock=tunnel.sock, ssl=self._tls, server_hostname=name
            )
        except BaseException:
            tunnel.sock.close()
            raise
        try:
            return await self._answer(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        http = h11.Connection(h11.CLIENT)
        headers = [("Host", self._netloc), ("Accept", "text/plain"), ("Connection", "close")]
        request = h11.Request(method="GET", target=self._target, headers=headers)
        writer.write((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
        await writer.drain()
        body, status = b"", 0
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(_ANSWER_LIMIT))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > _ANSWER_LIMIT:
                    raise ValueError("the echo address says more than an address")
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                raise ValueError("the echo address ends before its answer")
        if status != httpx.codes.OK:
            raise ValueError(f"the echo address answers {status}")
        return str(ipaddress.ip_address(body.decode("ascii").strip()))
