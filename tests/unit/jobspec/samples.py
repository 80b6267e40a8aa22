"""Slots and rows to render jobs from: fixed ones for golden files, arbitrary ones for properties."""

from __future__ import annotations

import string
from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import strategies as st

from core.crypto import hashed_api_key
from core.domain.desired import Resources
from core.domain.jobspec import JobSlots
from core.settings import JobSettings, Secret
from core.store.interface import ContainerRow, ContainerSecrets

PLANS = {
    "free": Resources(cpu_mhz=200, memory_mb=300, memory_max_mb=1024),
    "business": Resources(cpu_mhz=200, memory_mb=300, memory_max_mb=1024),
    "enterprise": Resources(cpu_mhz=200, memory_mb=300, memory_max_mb=2048),
}
USER = "0b4b1c7e-2f6a-4d55-9c3b-1f2e3d4c5b6a"
NAMESPACE = "u0123456789abcde"
# Recognisable and shaped like the real ones; of no use anywhere.
API_KEY = "0123456789abcdef" * 4
HOOK_KEY = "fedcba9876543210" * 4
DSN = "postgres://waha:p%40ss@storage.internal:5432/postgres"


def row(plan: str = "free", **changes: Any) -> ContainerRow:
    noon = datetime(2026, 7, 1, 12, tzinfo=UTC)
    made = ContainerRow(
        user_id=USER,
        email="test@whago.com",
        plan_slug=plan,
        resources=PLANS[plan],
        max_chips=10,
        generation=1,
        pinned=False,
        deleted=False,
        namespace=NAMESPACE,
        storage_id="main",
        created_at=noon,
        phase="",
        reason=None,
        since=noon,
        registered=None,
        variables_hash=None,
        current_allocation=None,
        empty_since=None,
        secrets=ContainerSecrets(api_key=API_KEY, hook_key=HOOK_KEY),
    )
    return msgspec.structs.replace(made, **changes)


def settings(jobspec: str = "waha-plus", **changes: Any) -> JobSettings:
    simulated = jobspec == "waha-simulator"
    made = JobSettings(
        jobspec=jobspec,
        image="devlikeapro/waha:gows-2026.7.1",
        engine="GOWS",
        datacenters=("*",),
        node_pool="default",
        storage_id="main",
        storage_dsn=Secret("/srv/simulator-store" if simulated else DSN),
        hook_base_url="http://api.internal:8000",
        console_url="https://console.example",
        simulator_command="/usr/bin/python3" if simulated else "",
        simulator_args=("-m", "sandbox.waha") if simulated else (),
    )
    return msgspec.structs.replace(made, **changes)


def slots(**changes: Any) -> JobSlots:
    made = JobSlots(
        user_id=USER,
        owner="test@whago.com",
        console_link="https://console.example/?user=" + USER,
        image="devlikeapro/waha:gows-2026.7.1",
        cpu_mhz=200,
        memory_mb=300,
        memory_max_mb=1024,
        node_heap_mb=512,
        namespace=NAMESPACE,
        api_key_hash=hashed_api_key(API_KEY),
        hook_url="http://api.internal:8000/api/v1/webhooks/waha/" + USER,
        simulator_command="/usr/bin/python3",
        simulator_args=("-m", "sandbox.waha"),
    )
    return msgspec.structs.replace(made, **changes)


_WORDS = st.text(string.ascii_lowercase, min_size=1, max_size=12)
_VERSIONS = st.sampled_from(("2026.3.1", "2026.6.1", "2026.7.1", "2027.1.10"))


@st.composite
def any_slots(draw: st.DrawFn) -> JobSlots:
    """Any slots that a job may be made from."""
    memory_max = draw(st.integers(64, 8192))
    return slots(
        user_id=str(draw(st.uuids(version=4))),
        owner=draw(_WORDS) + "@" + draw(_WORDS),
        console_link=f"https://{draw(_WORDS)}.example/?user={draw(_WORDS)}",
        nomad_namespace=draw(_WORDS),
        datacenters=tuple(draw(st.lists(_WORDS, min_size=1, max_size=3))),
        node_pool=draw(_WORDS),
        stop_on_disconnect_s=draw(st.integers(45, 3600)),
        image=f"{draw(_WORDS)}/waha:gows-{draw(_VERSIONS)}",
        engine=draw(st.sampled_from(("GOWS", "NOWEB", "WEBJS", "WPP"))),
        docker_network=draw(_WORDS),
        cpu_mhz=draw(st.integers(1, 10_000)),
        memory_mb=draw(st.integers(10, memory_max)),
        memory_max_mb=memory_max,
        node_heap_mb=draw(st.integers(1, memory_max - 1)),
        namespace="u" + draw(st.text(string.digits + string.ascii_lowercase, min_size=15, max_size=15)),
        api_key_hash=hashed_api_key(draw(_WORDS)),
        hook_url=f"http://{draw(_WORDS)}:8000/hooks",
        simulator_command="/bin/" + draw(_WORDS),
        simulator_args=tuple(draw(st.lists(_WORDS, max_size=4))),
        simulator_env=tuple(
            sorted(
                draw(
                    st.dictionaries(
                        # Too few letters for a name that looks like a secret's, which is refused.
                        st.text("ABCDEFGH", min_size=3, max_size=8).map("WAHA_SIM_X_".__add__),
                        _WORDS,
                    )
                ).items()
            )
        ),
    )
