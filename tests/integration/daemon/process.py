"""The daemon as a process of its own, which tells its steps on a pipe and can be killed exactly at one."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from core.store.leases_admin import free_leases
from tests.integration.daemon.fleet import Fleet

RUN = "from core.settings import load; from daemon.main import run; run(load(part='daemon'))"
ROOT = Path(__file__).parents[3]


class DaemonProcess:
    """One process. Every step waits for our word, so the process stands still at the one it is killed at."""

    def __init__(self, fleet: Fleet, process: asyncio.subprocess.Process, steps: IO[bytes], ack: int) -> None:
        self.fleet = fleet
        self.process = process
        self.seen: list[tuple[str, str]] = []
        """(key, step) in order; a step is its name and, where there is one, its effect."""
        self.reached = asyncio.Event()
        """Set while it stands still at the step that `stop_at` named."""
        self._loop = asyncio.get_running_loop()
        self._ack = ack
        self._stop_at: tuple[str, str] | None = None
        self._reader = threading.Thread(target=self._read, args=(steps,), daemon=True)
        self._reader.start()

    @classmethod
    async def start(
        cls, fleet: Fleet, env: Mapping[str, str] | None = None, *, tells: bool = True
    ) -> DaemonProcess:
        """`tells`: with its steps; without them nothing in it waits for the test."""
        step_out, step_in = os.pipe()
        ack_out, ack_in = os.pipe()
        told = {"WAHAFLEET_TEST_STEP_FD": str(step_in), "WAHAFLEET_TEST_ACK_FD": str(ack_out)}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            RUN,
            cwd=ROOT,
            env={**os.environ, **fleet.env, **(told if tells else {}), **(env or {})},
            pass_fds=(step_in, ack_out),
            stderr=None if os.environ.get("WAHAFLEET_TEST_SHOW_DAEMON") else asyncio.subprocess.DEVNULL,
        )
        os.close(step_in)
        os.close(ack_out)
        return cls(fleet, process, os.fdopen(step_out, "rb"), ack_in)

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    @property
    def lease_owner(self) -> str:
        """How the owner of its leases begins."""
        return f"{socket.gethostname()[:40]}:{self.process.pid}:"

    async def ready(self) -> DaemonProcess:
        """Waits until it would take a SIGTERM for what it is: the first thing that it does by itself."""
        while not self._takes_sigterm():  # noqa: ASYNC110 - a process tells nobody
            await asyncio.sleep(0.02)
        return self

    def _takes_sigterm(self) -> bool:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        (caught,) = (line for line in lines if line.startswith("SigCgt"))
        return bool(int(caught.split()[1], 16) & 1 << (signal.SIGTERM - 1))

    def stop_at(self, key: str, step: str) -> None:
        """From now on it stands still when it comes to `step` of `key`."""
        self.reached.clear()
        self._stop_at = (key, step)

    async def kill(self, *, free: bool = True) -> None:
        """SIGKILL; with `free` its leases are freed, as the sandbox's parent does once it saw it end."""
        if self.alive:
            self.process.kill()
        await self.process.wait()
        os.close(self._ack)
        self._reader.join()
        if free:
            await free_leases(self.fleet.engine, owner_prefix=self.lease_owner)

    async def end(self, timeout_s: float = 15.0) -> float:
        """SIGTERM; how many seconds its end took. One that does not end is killed, and that fails."""
        begun = self._loop.time()
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), timeout_s)
            except TimeoutError:
                await self.kill()
                raise
        took = self._loop.time() - begun
        os.close(self._ack)
        self._reader.join()
        assert self.process.returncode == 0, f"the daemon ended with {self.process.returncode}"
        return took

    def _read(self, steps: IO[bytes]) -> None:
        with steps:
            for line in steps:
                step, key, *effect = line.decode().split()
                name = " ".join([step, *effect])
                self.seen.append((key, name))
                if (key, name) == self._stop_at:
                    self._loop.call_soon_threadsafe(self.reached.set)
                    continue
                try:
                    os.write(self._ack, b".")
                except OSError:
                    return  # it was killed, or is gone by itself


@asynccontextmanager
async def process(fleet: Fleet, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A daemon, told to end at the end of the block."""
    fds = tuple(int(value) for name, value in env.items() if name.endswith("_FD"))
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        RUN,
        cwd=ROOT,
        env={**os.environ, **fleet.env, **env},
        pass_fds=fds,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(running.wait(), 10)
            except TimeoutError:
                running.kill()
        await running.wait()
