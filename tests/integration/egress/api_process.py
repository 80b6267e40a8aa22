"""`wahafleet api` as a process of its own, on a port that stays while it comes and goes, and a line to it that loses answers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from tests.integration.egress.doubles import free_port

_START_S: Final = 60.0


class ApiProcess:
    """Killed and started again by the tests that share it; gone at the end of `api_process`."""

    def __init__(self, env: Mapping[str, str], log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._env = env
        self._log = log
        self._more: Mapping[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def running_with(self, more: Mapping[str, str]) -> None:
        """Started, or started anew, unless it runs with just these settings."""
        if self._process is None or self._process.poll() is not None or more != self._more:
            self.kill()
            self.start(more)

    def start(self, more: Mapping[str, str] | None = None) -> None:
        """Returns once it serves requests. `more`: settings; those of the last time unless given."""
        self._more = self._more if more is None else more
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WAHAFLEET_")}
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                (sys.executable, "-m", "cli.main", "api", "--port", str(self.port)),
                stdout=output,
                stderr=output,
                env={**kept, **self._env, **self._more},
            )
        give_up_at = time.monotonic() + _START_S
        with httpx.Client(trust_env=False) as http:
            while not self._serves(http):
                assert self._process.poll() is None, self._log.read_text()
                assert time.monotonic() < give_up_at, "the API did not start"
                time.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _serves(self, http: httpx.Client) -> bool:
        try:
            return http.get(f"{self.url}/health/ready").status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def api_process(env: Mapping[str, str], log: Path) -> Iterator[ApiProcess]:
    made = ApiProcess(env, log)
    try:
        yield made
    finally:
        made.kill()


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
