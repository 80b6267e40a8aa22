"""`wahafleet api` as a process of its own, on a port that stays while it comes and goes, and a line to it that loses answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from tests.integration.egress.doubles import free_port


class ApiProcess:
    """Killed and started again by the test; gone at the end of `api_process`."""

    def __init__(self, env: Mapping[str, str], log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._env = env
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns once it serves requests."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WAHAFLEET_")}
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "cli.main", "api", "--port", str(self.port)),
                stdout=output,
                stderr=output,
                env={**kept, **self._env},
            )
        async with asyncio.timeout(40), httpx.AsyncClient(trust_env=False) as http:
            while True:
                assert self._process.returncode is None, self._log.read_text()
                with contextlib.suppress(httpx.HTTPError):
                    if (await http.get(f"{self.url}/health/ready")).status_code == 200:
                        return
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def api_process(env: Mapping[str, str], log: Path) -> AsyncIterator[ApiProcess]:
    made = ApiProcess(env, log)
    try:
        await made.start()
        yield made
    finally:
        await made.kill()


class Line:
    """Passes connections on to the API. `loses`: what was asked arrives there, and its answer never comes back.

    Attributes:
        lost: answers that were lost.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.loses = b""
        self.lost = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        asked = bytearray()

        async def out() -> None:
            while data := await reader.read(65536):
                asked[:] = data if data.startswith(b"POST ") else asked + data
                there_writer.write(data)
                await there_writer.drain()

        async def back() -> None:
            while data := await there_reader.read(65536):
                if self.loses and self.loses in asked:
                    self.lost += 1
                    return
                writer.write(data)
                await writer.drain()

        try:
            tasks = {asyncio.create_task(out()), asyncio.create_task(back())}
            _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            there_writer.transport.abort()
