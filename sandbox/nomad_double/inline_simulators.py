"""raw_exec without processes: every task is a WAHA simulator that lives in the double's own process."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator

from sandbox.nomad_double.drivers import InlineDriver, TaskSpec
from sandbox.waha.inline import InlineSimulators


@contextlib.contextmanager
def inline_simulators() -> Iterator[InlineDriver]:
    """A driver whose tasks end with the block. A task's command and arguments are not looked at."""
    with InlineSimulators() as simulators:
        yield driver_of(simulators)


def driver_of(simulators: InlineSimulators) -> InlineDriver:
    """A driver whose tasks are containers of `simulators`."""
    return InlineDriver(_Program(simulators).run)


class _Program:
    def __init__(self, simulators: InlineSimulators) -> None:
        self._simulators = simulators

    async def run(self, spec: TaskSpec, stop: asyncio.Event) -> int:
        """One container, from start to end; its exit code, 1 when it could not start."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def on_exit(_code: int) -> None:
            # The double may be gone by then, and nobody waits for this task any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(ended.set)

        with spec.stdout.open("a") as log:

            def write(line: str) -> None:
                log.write(line)
                log.flush()

            try:
                # The thread that serves it answers at once; waiting for it costs less than a thread more.
                container = self._simulators.start({**os.environ, **spec.env}, on_exit, write)
            except (ValueError, OSError, TimeoutError) as error:
                write(f"{error}\n")
                return 1
            stopping = asyncio.create_task(stop.wait())
            ending = asyncio.create_task(ended.wait())
            try:
                await asyncio.wait([stopping, ending], return_when=asyncio.FIRST_COMPLETED)
                if not ended.is_set():
                    container.stop()
                    await ending
            except asyncio.CancelledError:
                container.kill()
                raise
            finally:
                stopping.cancel()
                ending.cancel()
            return container.exit_code or 0
