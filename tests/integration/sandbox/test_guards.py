"""Guards of several hosts in one process: each listens for its own host and knows its own node's key."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from pathlib import Path

import msgspec

from core.domain.chip_credentials import chip_password, chip_user, node_key
from core.domain.egress_errors import EgressError
from core.domain.guard_wire import Upstream
from sandbox.guards import HostGuard
from sandbox.provider.journal import Journal
from sandbox.provider.server import running_provider
from tests.integration.egress.conftest import KEY
from tests.integration.egress.doubles import free_port, knock
from tests.integration.egress.process import http_api
from tests.unit.egress.fakes import ALLOCATION, CHIP, NODE, FakeApi, route

OTHER_KEY = node_key(b"the cluster's secret", str(uuid.UUID(int=99)))


async def test_each_takes_its_own_hosts_chips_and_nobody_elses(tmp_path: Path) -> None:
    port, api = free_port(), FakeApi()
    guards = [
        HostGuard(f"127.0.0.1:{port}", NODE, KEY.hex()),
        HostGuard(f"127.0.0.2:{port}", str(uuid.UUID(int=99)), OTHER_KEY.hex()),
    ]
    async with (
        http_api(api) as url,
        running_provider({"local": "word"}, Journal(tmp_path / "journal")) as provider,
    ):
        upstream = Upstream("socks5", "127.0.0.1", provider.port, "local-0123456789ab", "word", "generic")
        api.current[ALLOCATION], api.routes = 1, [route(upstream=upstream)]
        env = {name: value for name, value in os.environ.items() if not name.startswith("WAHAFLEET_")}
        env |= {
            "SANDBOX_GUARDS": msgspec.json.encode(guards).decode(),
            "WAHAFLEET_GUARD_API_URL": url,
        }
        log = tmp_path / "log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "sandbox.guards"), stdout=output, stderr=output, env=env
            )
        try:
            async with asyncio.timeout(30):
                while log.read_text().count("guard_started") < 2:
                    assert process.returncode is None, log.read_text()
                    await asyncio.sleep(0.02)
            user, password = chip_user(CHIP, ALLOCATION), chip_password(KEY, CHIP, ALLOCATION, 1)
            chip = await knock(("127.0.0.1", port), user, password, "g.whatsapp.net:443")
            assert await chip.said(b"hello") == b"hello"
            stranger = await knock(("127.0.0.2", port), user, password, "g.whatsapp.net:443")
            assert stranger.reason == EgressError.UNAUTHENTICATED
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 20) == 0
            assert await chip.is_cut()
            assert [ask.allocation_id for ask in api.closed] == [ALLOCATION]
            chip.close()
            stranger.close()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
