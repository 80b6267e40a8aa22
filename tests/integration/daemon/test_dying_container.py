"""A container that was told to end stops its sessions, says so, and goes on answering until the last has stopped.

Whoever looks in between sees a stopped session at a container that passes its check: Nomad and Consul tell of its
end only later. A start sent there is taken and lost. It costs nothing but itself: the next process begins with
all sessions stopped, and each is started there once.
"""

from __future__ import annotations

from collections import Counter

import httpx
import pytest

from core.domain.names import session_name
from sandbox.waha import journal
from tests.integration.daemon.fleet import Fleet, has, until

pytestmark = pytest.mark.timeout(90)

SLOW_STOP_S = 3


def starts(fleet: Fleet) -> Counter[tuple[str, str]]:
    """(process, session) -> how often it was started there."""
    return Counter((e.process, e.session) for e in journal.read(fleet.storage) if e.event == "start")


async def test_a_start_that_a_dying_container_took_is_repeated_once_in_the_next(fleet: Fleet) -> None:
    async with fleet.daemon():
        user = await fleet.user()
        quick, slow = await fleet.chip(user), await fleet.chip(user)
        for chip in (quick, slow):
            await until(lambda chip=chip: fleet.chip_row(chip), has(phase="qr"), 30)  # type: ignore[misc]
            await fleet.scan(user, chip)
            await until(lambda chip=chip: fleet.chip_row(chip), has(phase="connected"))  # type: ignore[misc]
        before = starts(fleet)
        ((old, _), *_) = before
        base_url, api_key = await fleet.waha(user)
        row = await fleet.container_row(user)
        assert row is not None
        headers = {"X-Api-Key": api_key}
        async with httpx.AsyncClient(base_url=base_url, headers=headers, trust_env=False) as http:
            # Phones are never served by a process that ended: its sessions may stop as slowly as they like.
            body = {"stop_seconds": SLOW_STOP_S}
            (await http.post(f"/sim/sessions/{session_name(slow)}/faults", json=body)).raise_for_status()
        await fleet.restart_task(row["allocation_id"])
        await until(lambda: fleet.restarts(row["allocation_id"]), lambda restarts: restarts >= 1)

        async def both() -> list[str]:
            """Sessions that the next process works with."""
            working = journal.read(fleet.storage)
            return sorted({e.session for e in working if e.event == "working" and e.process != old})

        await until(both, lambda seen: seen == sorted(map(session_name, (quick, slow))), 30)
        for chip in (quick, slow):
            await until(lambda chip=chip: fleet.chip_row(chip), has(phase="connected", reason=None))  # type: ignore[misc]
        since = starts(fleet) - before
        lost = {session: n for (process, session), n in since.items() if process == old}
        assert lost == {session_name(quick): 1}
        found = Counter(session for process, session in since.elements() if process != old)
        assert found == {session_name(quick): 1, session_name(slow): 1}
        assert journal.overlaps(fleet.storage, by="user", speaking=False) == []
