"""One container in one process: what a raw_exec task runs."""

from __future__ import annotations

import errno
import os
import signal
import sys

from sandbox.waha.container import Container
from sandbox.waha.log import Log
from sandbox.waha.loop import Loop


def main() -> int:
    """Serves until SIGTERM or SIGINT. Exit codes: 0 ended gracefully, 1 could not start, 137 forced,
    98 its port is taken (EADDRINUSE on Linux): what a plain program tells a scheduler that drew that port.
    """
    log = Log()
    loop = Loop()
    codes: list[int] = []

    def ended(code: int) -> None:
        codes.append(code)
        loop.stop()

    try:
        container = Container(loop, os.environ, ended, log)
    except (ValueError, OSError) as error:
        log.emit("start_failed", problem=str(error))
        return 98 if getattr(error, "errno", None) == errno.EADDRINUSE else 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(container.stop))
    loop.run()
    if codes[-1] == 137:
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return codes[-1]
