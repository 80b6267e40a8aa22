"""`python -m sandbox.consul_double --port 8500`: one JSON line on stdout when it answers, then serve."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys

import msgspec

from sandbox.consul_double.double import VERSION, Knobs
from sandbox.consul_double.server import running_consul_double


async def _serve(host: str, port: int, knobs: Knobs) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    async with running_consul_double(host=host, port=port, knobs=knobs) as running:
        ready = {
            "ready": True,
            "url": running.url,
            "port": running.port,
            "pid": os.getpid(),
            "version": VERSION,
        }
        sys.stdout.write(msgspec.json.encode(ready).decode() + "\n")
        sys.stdout.flush()
        await ended.wait()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox.consul_double", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8500, help="port to listen on, 0 for a free one")
    parser.add_argument(
        "--registration-delay",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="from the agent to the catalog",
    )
    parser.add_argument(
        "--no-stagger", action="store_true", help="look at each check at once, not within its first interval"
    )
    parser.add_argument(
        "--least-interval",
        type=float,
        default=Knobs().least_interval_s,
        metavar="SECONDS",
        help="shorter intervals of checks are stretched to this (default: %(default)s, as an agent does)",
    )
    given = parser.parse_args(arguments)
    knobs = Knobs(
        registration_delay_s=given.registration_delay,
        stagger=not given.no_stagger,
        least_interval_s=given.least_interval,
    )
    try:
        asyncio.run(_serve(given.host, given.port, knobs))
    except OSError as error:
        sys.stderr.write(
            f"the Consul double cannot listen on {given.host}:{given.port} ({error.strerror}); "
            "free that port or name another one with --port.\n"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
