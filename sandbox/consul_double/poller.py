"""Looking at checks: an HTTP request or a TCP connection at each interval, for real."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

import httpx

from core.clock import Clock
from sandbox.consul_double.catalog import CRITICAL, PASSING, WARNING
from sandbox.consul_double.definitions import Probe

OUTPUT_LIMIT: Final = 4096

Report = Callable[[str, str, str], None]
"""Takes a check's id, its status now, and the output to show."""

Look = Callable[[Probe], Awaitable[tuple[str, str]]]


class Prober:
    """Performs one look at one check: (status, output) in the words of a Consul agent."""

    def __init__(self) -> None:
        self._clients: dict[bool, httpx.AsyncClient] = {}

    async def look(self, probe: Probe) -> tuple[str, str]:
        if probe.kind == "tcp":
            return await self._tcp(probe)
        return await self._http(probe)

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()

    async def _tcp(self, probe: Probe) -> tuple[str, str]:
        host, _, port = probe.target.rpartition(":")
        try:
            async with asyncio.timeout(probe.timeout_s):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except (OSError, ValueError) as error:  # a TimeoutError is an OSError
            return CRITICAL, f"dial tcp {probe.target}: {_why(error)}"
        writer.close()
        return PASSING, f"TCP connect {probe.target}: Success"

    async def _http(self, probe: Probe) -> tuple[str, str]:
        headers = [(name, value) for name, values in probe.header.items() for value in values]
        try:
            async with asyncio.timeout(probe.timeout_s):
                response = await self._client(probe.verify).request(
                    probe.method, probe.target, headers=headers, content=probe.body or None
                )
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return CRITICAL, f'{probe.method.capitalize()} "{probe.target}": {_why(error)}'
        body = response.text[:OUTPUT_LIMIT]
        output = (
            f"HTTP {probe.method} {probe.target}: {response.status_code} {response.reason_phrase} "
            f"Output: {body}"
        )
        if response.is_success:
            return PASSING, output
        return (WARNING if response.status_code == 429 else CRITICAL), output

    def _client(self, verify: bool) -> httpx.AsyncClient:
        if verify not in self._clients:
            self._clients[verify] = httpx.AsyncClient(
                verify=verify,
                follow_redirects=True,
                trust_env=False,
                # Every look opens a connection of its own, so that a server that stopped accepting is seen.
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
                timeout=None,  # noqa: S113  the whole look is bounded by the caller
                headers={
                    "User-Agent": "Consul Health Check",
                    "Accept": "text/plain, text/*, */*",
                    "Connection": "close",
                },
            )
        return self._clients[verify]


class Poller:
    """Looks at every check it was given, each at its own interval.

    The first look comes at a random moment within the first interval, as at a real agent, so that checks
    that were registered together do not all look at once; `stagger=False` looks at once.
    """

    def __init__(self, clock: Clock, look: Look, report: Report, *, stagger: bool = True) -> None:
        self.stagger = stagger
        self._clock = clock
        self._look = look
        self._report = report
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def watch(self, check_id: str, probe: Probe, status: str) -> None:
        """Look at a check from now on; `status` is what it has so far."""
        self.forget(check_id)
        self._tasks[check_id] = asyncio.create_task(self._poll(check_id, probe, status))

    def forget(self, check_id: str) -> None:
        task = self._tasks.pop(check_id, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _poll(self, check_id: str, probe: Probe, status: str) -> None:
        successes = failures = 0
        if self.stagger:
            await self._clock.sleep(random.uniform(0, probe.interval_s))  # noqa: S311
        while True:
            seen, output = await self._look(probe)
            if seen == CRITICAL:
                successes, failures = 0, failures + 1
                counts = failures >= probe.failures_needed
            else:
                successes, failures = successes + 1, 0
                counts = successes >= probe.successes_needed
            status = seen if counts else status
            self._report(check_id, status, output)
            await self._clock.sleep(probe.interval_s)


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return "i/o timeout"
    return str(error) or type(error).__name__
