"""As many tunnels as one guard process carries: opened, full, held, all of them moved, closed, and nothing left of them."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.domain.guard_wire import Upstream
from tests.integration.egress.conftest import LOGIN, PASSWORD, credential
from tests.integration.egress.doubles import Chip, knock, serving
from tests.integration.egress.process import GuardProcess, guard_process, http_api
from tests.unit.egress.fakes import ALLOCATION, FakeApi, route

TUNNELS = 2000
AT_ONCE = 50
# Of resident memory; two sockets and three objects in Python, without what the kernel keeps.
KIB_EACH = 16


@pytest.fixture(autouse=True)
def files() -> Iterator[None]:
    """This process holds the chips' ends and the server's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 3 * TUNNELS
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"{hard} open files are too few for {TUNNELS} tunnels and both their ends")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def socks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A SOCKS5 server that is the host behind it too: it says everything back."""
    await reader.readexactly(4)
    writer.write(b"\x05\x02")
    await reader.readexactly(3 + len(LOGIN) + len(PASSWORD))
    writer.write(b"\x01\x00")
    await reader.readexactly(5 + len("echo.whatsapp.net") + 2)
    writer.write(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
    while data := await reader.read(4096):
        writer.write(data)


def resident_kib(guard: GuardProcess) -> int:
    lines = Path(f"/proc/{guard.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def open_files(guard: GuardProcess) -> int:
    return len(os.listdir(f"/proc/{guard.process.pid}/fd"))


async def opened(guard: GuardProcess, count: int) -> list[Chip]:
    chips: list[Chip] = []
    while len(chips) < count:
        some = min(AT_ONCE, count - len(chips))
        chips += await asyncio.gather(*(knock(guard.address, *credential()) for _ in range(some)))
    return chips


async def test_two_thousand_tunnels_in_one_process(tmp_path: Path) -> None:
    api = FakeApi()
    async with (
        serving(socks) as port,
        http_api(api) as url,
        guard_process(url, tmp_path / "guard.log", TUNNELS=str(TUNNELS)) as guard,
    ):
        api.current[ALLOCATION] = 1
        api.routes = [route(upstream=Upstream("socks5", "127.0.0.1", port, LOGIN, PASSWORD, "generic"))]
        # What the first ones cost in code that is loaded and buffers that are made is not theirs.
        warm = await opened(guard, 100)
        before_kib, before_files = resident_kib(guard), open_files(guard)
        chips = warm + await opened(guard, TUNNELS - len(warm))
        assert {chip.status for chip in chips} == {200}
        over = await knock(guard.address, *credential())
        assert over.reason == "guard_full"
        over.close()
        for some in range(0, TUNNELS, AT_ONCE):
            said = await asyncio.gather(
                *(chip.said(b"%5d" % (some + n) * 20) for n, chip in enumerate(chips[some : some + AT_ONCE]))
            )
            assert said == [b"%5d" % (some + n) * 20 for n in range(len(said))]
        each_kib = (resident_kib(guard) - before_kib) / (TUNNELS - len(warm))
        sys.stdout.write(f"an idle tunnel takes {each_kib:.1f} KiB of the guard's memory\n")
        assert each_kib < KIB_EACH
        assert open_files(guard) - before_files >= 2 * (TUNNELS - len(warm))
        for chip in chips:
            chip.close()
        async with asyncio.timeout(20):
            while open_files(guard) > before_files - 2 * len(warm) + 10:  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.1)
        (chip,) = await opened(guard, 1)
        assert await chip.said(b"again") == b"again"
        chip.close()
