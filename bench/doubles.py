"""`python -m bench.doubles`: the doubles of Nomad, Consul and WAHA in one process that counts requests by kind.

Prints one line of JSON with their addresses when they answer. A line on standard input is answered with the
counts since the line before; the end of the input ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import uvicorn
import zxingcpp

from core import heap
from sandbox.consul_double import running_consul_double
from sandbox.consul_double.catalog import CRITICAL, PASSING
from sandbox.consul_double.definitions import Probe
from sandbox.nomad_double.inline_simulators import driver_of
from sandbox.nomad_double.running import running_nomad_double
from sandbox.nomad_double.settings import Delays, DoubleSettings, simulated_hosts
from sandbox.waha import qr
from sandbox.waha.inline import InlineSimulators
from sandbox.waha.routes import Api

_ID = re.compile(r"(waha_plus_user_|chip_)?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_counts: Counter[str] = Counter()


class _Counting:
    """An ASGI application that counts what another one is asked. Watches are told apart from plain reads."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        # What the Nomad double itself registers at Consul is no request of the daemon.
        if scope["type"] == "http" and not scope["path"].startswith("/v1/agent"):
            system = "consul" if scope["path"].startswith(("/v1/health", "/v1/catalog")) else "nomad"
            watch = " (watch)" if b"index=" in scope["query_string"] else ""
            own = b"filter=" in scope["query_string"]  # of one user, not of all
            watch = " (one user)" if own else watch
            _counts[f"{system} {scope['method']} {_ID.sub(':id', scope['path'])}{watch}"] += 1
        await self._app(scope, receive, send)


class _Config(uvicorn.Config):
    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__(_Counting(app), **options)


async def _run(hosts: int, first: int, last: int, data: Path, clock_speed: float) -> None:
    uvicorn.Config = _Config  # type: ignore[misc,assignment]  # both doubles take it from there
    handle = Api.handle

    def counted(self: Api, request: Any, answer: Any) -> None:
        _counts[f"waha {request.method} {_ID.sub(':id', request.path)}"] += 1
        if request.path.endswith("/auth/qr"):
            _count_code(self, request.path.split("/")[2])
        handle(self, request, answer)

    Api.handle = counted  # type: ignore[method-assign]
    qr.png = drawn
    settings = DoubleSettings(
        hosts=simulated_hosts(hosts, min_dynamic_port=first, max_dynamic_port=last), delays=Delays.none()
    )
    os.environ |= {
        "WAHA_SIM_START_DELAY_S": "0",
        "WAHA_SIM_PAIR_DELAY_S": "0",
        "WAHA_SIM_CLOCK_SPEED": str(clock_speed),
    }
    with InlineSimulators() as simulators:

        async def look(probe: Probe) -> tuple[str, str]:
            """The check of a container, without its request.

            In the field each host looks at its own containers; here a thousand of them, every two seconds
            each, would take more than this one process has and be all that is measured.
            """
            target = urlsplit(probe.target)
            listens = simulators.listens(str(target.hostname), int(target.port or 0))
            return (PASSING, "it listens") if listens else (CRITICAL, "nothing listens")

        async with (
            running_consul_double(look=look) as consul,
            running_nomad_double(
                settings,
                data_dir=data / "nomad",
                consul_url=consul.url,
                drivers={"raw_exec": driver_of(simulators)},
            ) as nomad,
        ):
            _say({"nomad": nomad.url, "consul": consul.url})
            while await asyncio.to_thread(sys.stdin.readline):
                # Each container has a process of its own in the field, and does not wait while another's garbage is
                # collected.
                heap.settle()
                _say(dict(_counts))
                _counts.clear()


def drawn(value: str) -> bytes:
    """As `qr.png`, by a library in C++: segno takes six times as long.

    In the field each container draws its codes on its own host. Here one process draws those of all of them, and
    pages would mostly be measured by it.
    """
    code: Any = zxingcpp.create_barcode(value, zxingcpp.BarcodeFormat.QRCode, ec_level="L")
    pixels: Any = memoryview(code.to_image(scale=qr.SCALE, add_quiet_zones=True))
    side, flat = pixels.shape[1], bytes(pixels)
    return qr.picture([flat[at : at + side] for at in range(0, len(flat), side)])


def _count_code(api: Api, session: str) -> None:
    """Each code that is asked for by its own, whichever session's it is."""
    shown = api._simulator.find_running(session)
    if shown is not None and shown.qr_value is not None:
        _counts[f"code {hash(shown.qr_value)}"] += 1


def _say(value: Any) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.doubles")
    parser.add_argument("--hosts", type=int, required=True)
    parser.add_argument("--ports", type=int, nargs=2, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clock-speed", type=float, required=True, help="of the simulators' clock")
    given = parser.parse_args()
    first, last = given.ports
    asyncio.run(_run(given.hosts, first, last, given.data, given.clock_speed))


if __name__ == "__main__":
    main()
