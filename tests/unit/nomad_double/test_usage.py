"""What the double says that tasks use is what their processes use."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from sandbox.nomad_double.drivers import InlineDriver, TaskSpec, Usage, _own_memory


def spec(folder: Path, number: int) -> TaskSpec:
    return TaskSpec(
        alloc_id=str(number),
        job_id="job",
        task_name="main",
        user="",
        config={},
        env={},
        host_ip="127.0.0.1",
        ports={},
        task_dir=folder,
        stdout=folder / "out",
        stderr=folder / "err",
    )


async def test_programs_in_one_process_share_what_it_uses(tmp_path: Path) -> None:
    async def program(_: TaskSpec, stop: asyncio.Event) -> int:
        await stop.wait()
        return 0

    driver = InlineDriver(program)
    one = await driver.start(spec(tmp_path, 1))
    alone = one.usage()
    assert isinstance(alone, Usage)
    assert abs(alone.rss - _own_memory()) < 64 << 20
    assert alone.rss > 8 << 20
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    busy = one.usage()
    assert busy is not None
    assert busy.cpu_percent > 10
    other = await driver.start(spec(tmp_path, 2))
    shared = one.usage()
    assert shared is not None
    assert abs(shared.rss * 2 - alone.rss) < 64 << 20
    other.signal(15)
    await other.wait()
    await asyncio.sleep(0)
    assert other.usage() is None
    again = one.usage()
    assert again is not None
    assert again.rss > shared.rss * 1.5
    one.signal(15)
    assert (await one.wait()).success
