"""The daemon as a process of its own, which tells its steps on a pipe and can be killed exactly at one.

Some hundred of them are started by the tests, and importing the program takes longer than what they then do:
they are forked from a process that has imported it and does nothing else.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from core.store.leases_admin import free_leases
from tests.integration.daemon import program
from tests.integration.daemon.fleet import Fleet

_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload([program.__name__])


class DaemonProcess:
    """One process. Every step waits for our word, so the process stands still at the one it is killed at."""

    def __init__(self, fleet: Fleet, process: ForkServerProcess, steps: Connection, acks: Connection) -> None:
        self.fleet = fleet
        self.process = process
        self.seen: list[tuple[str, str]] = []
        """(key, step) in order; a step is its name and, where there is one, its effect."""
        self.reached = asyncio.Event()
        """Set while it stands still at the step that `stop_at` named."""
        self._loop = asyncio.get_running_loop()
        self._acks = acks
        self._stop_at: set[tuple[str, str]] = set()
        self._since = 0
        self._reader = threading.Thread(target=self._read, args=(steps,), daemon=True)
        self._reader.start()

    @classmethod
    async def start(
        cls, fleet: Fleet, env: Mapping[str, str] | None = None, *, tells: bool = True
    ) -> DaemonProcess:
        """`tells`: with its steps; without them nothing in it waits for the test."""
        step_out, step_in = _FORKED.Pipe(duplex=False)
        ack_out, ack_in = _FORKED.Pipe(duplex=False)
        running = _FORKED.Process(
            target=program.main,
            args=(
                {**os.environ, **fleet.env, **(env or {})},
                *((step_in, ack_out) if tells else (None, None)),
            ),
            kwargs={"quiet": "WAHAFLEET_TEST_SHOW_DAEMON" not in os.environ},
            daemon=True,
        )
        # The first one waits for the imports.
        await asyncio.to_thread(running.start)
        step_in.close()
        ack_out.close()
        return cls(fleet, running, step_out, ack_in)

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

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

    def stop_at(self, key: str, *steps: str) -> None:
        """From now on it stands still when it comes to one of `steps` of `key`."""
        self.reached.clear()
        self._since = len(self.seen)
        self._stop_at = {(key, step) for step in steps}

    async def reaches(self, within_s: float) -> None:
        """Waits until it stands still at such a step. Raises AssertionError with the steps that it took instead."""
        try:
            await asyncio.wait_for(self.reached.wait(), within_s)
        except TimeoutError:
            (key, *_), wanted = {key for key, _ in self._stop_at}, {step for _, step in self._stop_at}
            taken = [step for whose, step in self.seen[self._since :] if whose == key]
            raise AssertionError(f"within {within_s} s it came to {taken}, not to {wanted}") from None

    async def kill(self, *, free: bool = True) -> None:
        """SIGKILL; with `free` its leases are freed, as the sandbox's parent does once it saw it end."""
        if self.alive:
            self.process.kill()
        await self._ended()
        if free:
            await free_leases(self.fleet.engine, owner_prefix=self.lease_owner)

    async def end(self, timeout_s: float = 15.0) -> float:
        """SIGTERM; how many seconds its end took. One that does not end is killed, and that fails."""
        begun = self._loop.time()
        if self.alive:
            self.process.terminate()
            await asyncio.to_thread(self.process.join, timeout_s)
            if self.alive:
                await self.kill()
                raise TimeoutError(f"the daemon did not end within {timeout_s} s")
        took = self._loop.time() - begun
        await self._ended()
        assert self.process.exitcode == 0, f"the daemon ended with {self.process.exitcode}"
        return took

    async def _ended(self) -> None:
        await asyncio.to_thread(self.process.join)
        self._acks.close()
        self._reader.join()

    def _read(self, steps: Connection) -> None:
        with steps, os.fdopen(os.dup(steps.fileno()), "rb") as lines:
            for line in lines:
                step, key, *effect = line.decode().split()
                name = " ".join([step, *effect])
                self.seen.append((key, name))
                if (key, name) in self._stop_at:
                    self._loop.call_soon_threadsafe(self.reached.set)
                    continue
                try:
                    os.write(self._acks.fileno(), b".")
                except OSError:
                    return  # it was killed, or is gone by itself
