"""Runs inside a namespace: the API's internal routes, a SOCKS5 server and the host behind it.

`python -m tests.contract.host.internet ADDRESS API_PORT SOCKS_PORT` prints `ready`.
"""

from __future__ import annotations

import asyncio
import sys

from core.domain.guard_wire import Upstream
from core.status_server import listening
from tests.integration.egress.conftest import LOGIN, PASSWORD
from tests.integration.egress.doubles import Socks5, echo
from tests.integration.egress.process import HttpApi
from tests.unit.egress.fakes import ALLOCATION, FakeApi, route


async def main(address: str, api_port: int, socks_port: int) -> None:
    api, socks = FakeApi(), Socks5()
    far = await asyncio.start_server(echo, "127.0.0.1", 0)
    socks.hosts["echo.whatsapp.net:443"] = far.sockets[0].getsockname()
    await asyncio.start_server(socks, address, socks_port)
    api.current[ALLOCATION] = 1
    api.routes = [route(upstream=Upstream("socks5", address, socks_port, LOGIN, PASSWORD, "generic"))]
    async with listening(HttpApi(api), f"{address}:{api_port}", setting="(test)"):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
