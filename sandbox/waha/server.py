"""HTTP/1.1 on the loop: as much as WAHA's clients need (keep-alive, Content-Length bodies)."""

from __future__ import annotations

import json
import socket

from sandbox.waha.loop import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandbox.waha.log import Log
    from sandbox.waha.loop import Loop

    Handler = Callable[["Request", Callable[["Response"], None]], None]
    """Gets a request and calls back once, now or later, with the response."""

_HEADER_LIMIT = 32 * 1024
_BODY_LIMIT = 1024 * 1024
_REASONS = {
    200: "OK",
    201: "Created",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    409: "Conflict",
    411: "Length Required",
    413: "Payload Too Large",
    422: "Unprocessable Entity",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}


class Request:
    """One request. Header names are lower case; `query` keeps the last value of each name."""

    __slots__ = ("body", "headers", "method", "path", "query")

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        path, _, query = target.partition("?")
        self.method = method
        self.path = unquote(path)
        self.query = {
            unquote(name.replace("+", " ")): unquote(value.replace("+", " "))
            for name, _, value in (pair.partition("=") for pair in query.split("&") if pair)
        }
        self.headers = headers
        self.body = body


class Response:
    """Status, content type and body; `Response.json` for JSON."""

    __slots__ = ("body", "content_type", "status")

    def __init__(self, status: int, body: bytes = b"", content_type: str | None = None) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type

    @classmethod
    def json(cls, status: int, content: Any) -> Response:
        body = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
        return cls(status, body, "application/json; charset=utf-8")


def unquote(text: str) -> str:
    """Undoes percent-encoding; what is not valid stays as it is (`urllib.parse` costs 0.7 MB)."""
    if "%" not in text:
        return text
    head, *rest = text.encode("utf-8", "surrogateescape").split(b"%")
    parts = [head]
    for part in rest:
        try:
            parts.append(bytes([int(part[:2], 16)]) + part[2:] if len(part) >= 2 else b"%" + part)
        except ValueError:
            parts.append(b"%" + part)
    return b"".join(parts).decode("utf-8", "replace")


class Server:
    """Listens on one address; `close` ends the listener and every connection at once."""

    def __init__(self, loop: Loop, host: str, port: int, handler: Handler, log: Log) -> None:
        """Raises OSError when the address cannot be used."""
        self._log = log
        self._loop = loop
        self._handler = handler
        self._connections: set[_Connection] = set()
        self._listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((host, port))
            self._listener.listen(64)
        except OSError:
            self._listener.close()
            raise
        self._listener.setblocking(False)
        loop.watch(self._listener, READ, self._accept)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._listener.getsockname()[:2]
        return host, port

    def close(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.unwatch(self._listener)
            self._listener.close()
        for connection in tuple(self._connections):
            connection.close()

    def _accept(self, _events: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            # The client went away before we took the call, or we are out of descriptors.
            self._log.emit("accept_failed", problem=str(error))
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections.add(_Connection(self._loop, sock, self._handler, self._connections.discard))


class _Connection:
    """One client: reads a request, waits for its answer, writes it, reads the next."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        handler: Handler,
        forget: Callable[[_Connection], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._handler = handler
        self._forget = forget
        self._inbox = bytearray()
        self._outbox = b""
        self._busy = False
        self._keep = True
        self._closed = False
        loop.watch(sock, READ, self._ready)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.unwatch(self._sock)
            self._sock.close()
            self._forget(self)

    def _ready(self, events: int) -> None:
        try:
            if events & READ:
                data = self._sock.recv(65536)
                if not data:
                    self.close()
                    return
                self._inbox += data
                if len(self._inbox) > _HEADER_LIMIT + _BODY_LIMIT:
                    self.close()
                    return
                self._next()
            if events & WRITE and not self._closed:
                self._flush()
        except OSError:
            # Reset by the client: nobody is left to answer.
            self.close()

    def _next(self) -> None:
        if self._busy or self._closed:
            return
        end = self._inbox.find(b"\r\n\r\n")
        if end > _HEADER_LIMIT or (end < 0 and len(self._inbox) > _HEADER_LIMIT):
            self._refuse(431, "headers are too large")
            return
        if end < 0:
            return
        lines = self._inbox[:end].decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:])
        }
        if len(words) != 3 or not words[1].startswith("/"):
            self._refuse(400, "not an HTTP request")
            return
        if "transfer-encoding" in headers:
            self._refuse(411, "send the body with Content-Length")
            return
        length_text = headers.get("content-length") or "0"
        if not (length_text.isascii() and length_text.isdigit()):
            self._refuse(400, "Content-Length is not a number")
            return
        length = int(length_text)
        if length > _BODY_LIMIT:
            self._refuse(413, "request entity too large")
            return
        if len(self._inbox) < end + 4 + length:
            return
        body = bytes(self._inbox[end + 4 : end + 4 + length])
        del self._inbox[: end + 4 + length]
        self._keep = headers.get("connection", "").lower() != "close" and words[2] != "HTTP/1.0"
        self._busy = True
        self._handler(Request(words[0], words[1], headers, body), self._answer)

    def _refuse(self, status: int, message: str) -> None:
        self._keep = False
        self._busy = True
        self._answer(Response.json(status, {"message": message, "statusCode": status}))

    def _answer(self, response: Response) -> None:
        if self._closed:
            return
        head = f"HTTP/1.1 {response.status} {_REASONS.get(response.status, 'Status')}\r\n"
        if response.content_type is not None:
            head += f"Content-Type: {response.content_type}\r\n"
        head += f"Content-Length: {len(response.body)}\r\n"
        head += "Connection: keep-alive\r\n\r\n" if self._keep else "Connection: close\r\n\r\n"
        self._outbox += head.encode() + response.body
        try:
            self._flush()
        except OSError:
            self.close()

    def _flush(self) -> None:
        try:
            sent = self._sock.send(self._outbox)
        except BlockingIOError:
            sent = 0
        self._outbox = self._outbox[sent:]
        if self._outbox:
            self._loop.watch(self._sock, READ | WRITE, self._ready)
            return
        self._loop.watch(self._sock, READ, self._ready)
        if not self._keep:
            self.close()
            return
        self._busy = False
        if self._inbox:
            # Through the loop, so that a pipeline of requests does not nest calls.
            self._loop.call_soon_threadsafe(self._next)
