"""A real nginx on loopback with our file, between two backends that say who they are."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from sandbox.free_ports import free_port

FILE = Path(__file__).parents[3] / "nomad" / "proxy" / "nginx.conf"
ADDRESSES = {"whago": "server 127.0.0.1:8000;", "wahafleet": "server 127.0.0.1:8010;"}
LISTEN = "listen 80;"
BEATS = 3
BEAT_S = 0.4


def backend(side: str) -> Any:
    """An ASGI application that answers each request with what it was asked."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            asked = await receive()
            await send({"type": "websocket.send", "text": f"{side} heard {asked['text']}"})
            await send({"type": "websocket.close", "code": 1000})
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if headers.get("accept") == "text/event-stream":
            await _stream(side, send)
            return
        told = {
            "side": side,
            "method": scope["method"],
            "path": scope["raw_path"].decode(),
            "query": scope["query_string"].decode(),
            "headers": headers,
            "bytes": len(body),
        }
        await _respond(send, json.dumps(told).encode(), b"application/json")

    return app


async def _stream(side: str, send: Any) -> None:
    kind = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": kind})
    for beat in range(BEATS):
        text = f"id: {beat}\r\ndata: {side}\r\n\r\n".encode()
        await send({"type": "http.response.body", "body": text, "more_body": True})
        await asyncio.sleep(BEAT_S)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _respond(send: Any, body: bytes, kind: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def running(program: str, folder: Path, ports: dict[str, int]) -> Iterator[str]:
    """Base URL of nginx with our file; only addresses and the port are others."""
    port = free_port()
    text = FILE.read_text("utf-8")
    for side, line in ADDRESSES.items():
        text = _once(text, line, f"server 127.0.0.1:{ports[side]};")
    text = _once(text, LISTEN, f"listen 127.0.0.1:{port};")
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    whole = folder / "nginx.conf"
    whole.write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log stderr error;\n"
        f"events {{ worker_connections 256; }}\n"
        f"http {{\naccess_log off;\n{temporary}{text}\n}}\n",
        "utf-8",
    )
    command = [program, "-p", str(folder), "-c", str(whole), "-e", "stderr"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
        try:
            _await(f"http://127.0.0.1:{port}/", process, folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 15
    while True:
        assert process.poll() is None, log.read_text("utf-8")
        try:
            httpx.get(url, timeout=2)
        except httpx.TransportError:
            assert time.monotonic() < deadline, log.read_text("utf-8")
            time.sleep(0.05)
        else:
            return


def _once(text: str, line: str, other: str) -> str:
    assert len(re.findall(re.escape(line), text)) == 1, f"{line} must stand once in {FILE.name}"
    return text.replace(line, other)
