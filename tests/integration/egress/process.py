"""`wahafleet egress` as a process of its own, and the API's internal routes over HTTP for it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from core.domain.guard_wire import Renew, Usage
from core.errors import Unavailable
from core.status_server import listening
from tests.integration.egress.conftest import KEY
from tests.integration.egress.doubles import free_port
from tests.unit.egress.fakes import NODE, FakeApi


class HttpApi:
    """A `FakeApi` behind HTTP, which takes the node's own key alone."""

    def __init__(self, api: FakeApi, node_id: str = NODE, key: bytes = KEY) -> None:
        self._api = api
        self._credential = f"Guard {node_id}:{key.hex()}".encode()

    async def __call__(self, scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        status, answer = 200, b"{}"
        if headers.get(b"authorization") != self._credential:
            status = 401
        else:
            try:
                if scope["path"] == "/internal/guard/renew":
                    answer = msgspec.json.encode(await self._api.renew(msgspec.json.decode(body, type=Renew)))
                else:
                    assert scope["path"] == "/internal/guard/usage"
                    await self._api.usage(msgspec.json.decode(body, type=Usage))
            except Unavailable:
                status = 503
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": answer})


class GuardProcess:
    """Started, and gone at the end. `log`: its lines."""

    def __init__(self, process: asyncio.subprocess.Process, address: tuple[str, int], log: Path) -> None:
        self.process = process
        self.address = address
        self.log = log

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for line in self.log.read_bytes().splitlines()]

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def guard_process(api_url: str, log: Path, **settings: str) -> AsyncIterator[GuardProcess]:
    """`settings`: without their prefix; its node, key and address too. `log` is added to."""
    given = {
        "LISTEN": f"127.0.0.1:{free_port()}",
        "STATUS_LISTEN": "127.0.0.1:0",
        "NODE_ID": NODE,
        "KEY": KEY.hex(),
        "API_URL": api_url,
    } | settings
    host, _, port = given["LISTEN"].rpartition(":")
    env = {name: value for name, value in os.environ.items() if not name.startswith("WAHAFLEET_")}
    env |= {f"WAHAFLEET_GUARD_{name}": value for name, value in given.items()}
    began = len(_text(log))
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.main", "egress"), stdout=output, stderr=output, env=env
        )
    try:
        async with asyncio.timeout(30):
            while "guard_started" not in _text(log)[began:]:
                assert process.returncode is None, _text(log)
                await asyncio.sleep(0.02)
        yield GuardProcess(process, (host, int(port)), log)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()


@asynccontextmanager
async def http_api(api: FakeApi) -> AsyncIterator[str]:
    async with listening(HttpApi(api), "127.0.0.1:0", setting="(test)") as url:
        assert url is not None
        yield url


def _text(log: Path) -> str:
    return log.read_text() if log.exists() else ""
