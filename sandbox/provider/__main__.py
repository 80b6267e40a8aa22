"""`python -m sandbox.provider --port 1080 --login local`: one JSON line on stdout when it answers, then serve.

The password of the login is read from SANDBOX_PROVIDER_PASSWORD, where no list of processes shows it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from sandbox.provider.control import controlled
from sandbox.provider.journal import Journal
from sandbox.provider.server import PASSWORD, running_provider


async def _serve(given: argparse.Namespace, password: str) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    accounts = {given.login: password}
    async with (
        running_provider(accounts, Journal(given.journal), host=given.host, port=given.port) as provider,
        controlled(provider, port=given.control_port) as control,
    ):
        ready = {"ready": True, "port": provider.port, "control": f"http://127.0.0.1:{control}"}
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        await ended.wait()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox.provider", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--port", type=int, default=1080, help="port of SOCKS5 and HTTP CONNECT, 0 for a free one"
    )
    parser.add_argument("--control-port", type=int, default=0, help="port of the knobs, on 127.0.0.1")
    parser.add_argument("--login", default="local", help="login of the one account")
    parser.add_argument("--journal", type=Path, help="file that tells what was carried")
    given = parser.parse_args(arguments)
    password = os.environ.get(PASSWORD, "")
    if not password:
        sys.stderr.write(f"the provider needs a password: set {PASSWORD}.\n")
        return 1
    try:
        asyncio.run(_serve(given, password))
    except OSError as error:
        sys.stderr.write(f"the provider cannot listen on {given.host}:{given.port} ({error.strerror}).\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
