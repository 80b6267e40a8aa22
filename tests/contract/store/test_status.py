"""What a status write moves, what it leaves alone, and what it tells."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.domain.actions import ChipStatus, ContainerStatus, Placed
from core.domain.desired import Registered, SpecHashes, Tries, Wanted
from core.domain.facts import Endpoint
from core.domain.pacing import Ask, Pace
from core.errors import StaleWrite
from core.store.interface import Lease, Written
from tests.contract.store.harness import Harness

ALLOCATION = str(uuid.UUID(int=1))
READY = ContainerStatus(
    phase="ready",
    placed=Placed(ALLOCATION, str(uuid.UUID(int=9)), "host-1", "10.0.0.1", 3100),
    allocation_id=ALLOCATION,
    node_name="host-1",
    address="10.0.0.1",
    port=3100,
    endpoint=Endpoint("10.0.0.1", 3100, ALLOCATION),
)
QR = ChipStatus(phase="qr", status="WAITING_QR", waha_status="SCAN_QR_CODE")
CONNECTED = ChipStatus(
    phase="connected",
    status="CONNECTED",
    waha_status="WORKING",
    phone_number="+5511988887777",
    push_name="Ana",
    connected_now=True,
)
# Of a pass that knows every wish.
ALL = 1_000_000


class Scene:
    """A user with one chip, and a pass that holds the lease."""

    def __init__(self, harness: Harness, user_id: str, chip_id: str, lease: Lease) -> None:
        self.harness, self.store = harness, harness.store
        self.user_id, self.chip_id, self.lease = user_id, chip_id, lease

    async def see(self, chip: ChipStatus, container: ContainerStatus = READY, **options: Any) -> Written:
        """A pass that loads and then writes at once, unless `generation` names what it loaded before."""
        generation = options.pop("generation", None)
        if generation is None:
            generation = (await self.chip())["generation"]
        written = await self.store.write_status(
            self.lease, container, {self.chip_id: chip}, {self.chip_id: generation}, 1, **options
        )
        assert isinstance(written, Written)
        return written

    async def chip(self) -> dict[str, Any]:
        columns = await self.harness.chip_columns(self.chip_id)
        assert columns is not None
        return columns

    async def container(self) -> dict[str, Any]:
        columns = await self.harness.container_columns(self.user_id)
        assert columns is not None
        return columns


@pytest.fixture
async def scene(harness: Harness) -> Scene:
    user_id = await harness.user()
    chip_id = await harness.chip(user_id, "vendas")
    lease = await harness.store.claim(user_id, "one", 60)
    assert isinstance(lease, Lease)
    return Scene(harness, user_id, chip_id, lease)


async def test_load_gives_what_a_pass_needs(scene: Scene) -> None:
    second = await scene.harness.chip(scene.user_id, "suporte")
    wished = await scene.harness.wish(scene.chip_id, "deleted")
    await scene.see(QR)
    snapshot = await scene.store.load(scene.user_id)
    assert snapshot is not None
    container = snapshot.container
    assert (container.user_id, container.plan_slug, container.max_chips) == (scene.user_id, "enterprise", 10)
    assert (container.resources.cpu_mhz, container.resources.memory_max_mb) == (200, 2048)
    assert (container.phase, container.current_allocation) == ("ready", ALLOCATION)
    assert container.email == f"{scene.user_id}@example.com"
    assert len(container.secrets.api_key) == len(container.secrets.hook_key) == 64
    assert container.secrets.api_key not in repr(container)
    assert [chip.id for chip in snapshot.chips] == [scene.chip_id, second]  # oldest first
    assert [chip.wanted for chip in snapshot.chips] == [Wanted.DELETED, Wanted.CONNECTED]
    assert snapshot.chips[0].generation == wished
    assert snapshot.chips[0].phase == "qr"


async def test_load_of_a_user_without_container_or_chips(harness: Harness) -> None:
    user_id = await harness.user()
    assert await harness.store.load(user_id) is None
    await harness.container(user_id)
    snapshot = await harness.store.load(user_id)
    assert snapshot is not None
    assert snapshot.chips == ()
    assert (snapshot.container.registered, snapshot.container.current_allocation) == (None, None)
    assert await harness.store.user_ids() == (user_id,)


async def test_records_of_effects_are_loaded_again(scene: Scene) -> None:
    store, lease = scene.store, scene.lease
    registered = Registered(SpecHashes("spec", "restart"), 42)
    spent = Tries(generation=2, failures=1, qr_rounds=1, last_at=datetime(2026, 1, 2, tzinfo=UTC))
    await store.record_registered(lease, registered)
    await store.record_variables(lease, "secrets")
    await store.take_starts(
        lease, [Ask(scene.chip_id, "host-1", None, 20, None)], Pace(), {scene.chip_id: spent}
    )
    snapshot = await store.load(scene.user_id)
    assert snapshot is not None
    assert (snapshot.container.registered, snapshot.container.variables_hash) == (registered, "secrets")
    assert snapshot.chips[0].tries == spent
    await store.record_registered(lease, None)
    await store.record_variables(lease, None)
    snapshot = await store.load(scene.user_id)
    assert snapshot is not None
    assert (snapshot.container.registered, snapshot.container.variables_hash) == (None, None)


async def test_a_write_that_changes_something_is_told_and_one_that_does_not_is_not(scene: Scene) -> None:
    assert (await scene.see(QR)).changed
    before, container = await scene.chip(), await scene.container()
    again = await scene.see(QR)
    assert not again.changed
    assert await scene.chip() == before
    assert await scene.container() == container


async def test_status_since_moves_with_phase_or_reason_alone(scene: Scene) -> None:
    await scene.see(QR)
    first = await scene.chip()
    await scene.see(ChipStatus(phase="qr", status="WAITING_QR", waha_status="STARTING"))
    second = await scene.chip()
    assert second["status_since"] == first["status_since"]
    assert (second["waha_status"], second["revision"]) == ("STARTING", first["revision"] + 1)
    assert second["updated_at"] > first["updated_at"]
    await scene.see(ChipStatus(phase="qr", status="WAITING_QR", waha_status="STARTING", reason="qr_spent"))
    assert (await scene.chip())["status_since"] > second["status_since"]


async def test_revision_stands_still_when_nothing_that_people_see_moved(scene: Scene) -> None:
    await scene.see(QR)
    before = await scene.chip()
    spent = Tries(generation=before["generation"], qr_rounds=1)
    await scene.see(ChipStatus(phase="qr", status="WAITING_QR", waha_status="SCAN_QR_CODE", tries=spent))
    after = await scene.chip()
    assert after["tries_qr_rounds"] == 1
    assert (after["revision"], after["updated_at"]) == (before["revision"], before["updated_at"])


async def test_a_container_that_moves_changes_what_every_chip_shows(scene: Scene) -> None:
    other = await scene.harness.chip(scene.user_id)
    await scene.see(QR)
    old = await scene.harness.chip_columns(other)
    other_port = ContainerStatus(
        phase="booting",
        allocation_id=str(uuid.UUID(int=2)),
        node_name="host-2",
        address="10.0.0.2",
        port=3105,
    )
    assert (await scene.see(QR, other_port)).changed
    new = await scene.harness.chip_columns(other)
    assert old is not None
    assert new is not None
    assert new["revision"] == old["revision"] + 1


async def test_a_chip_with_a_newer_wish_keeps_its_status_but_not_the_facts(scene: Scene) -> None:
    loaded = (await scene.chip())["generation"]
    await scene.see(QR)
    await scene.harness.wish(scene.chip_id, "disconnected")
    before = await scene.chip()
    written = await scene.see(CONNECTED, generation=loaded)
    after = await scene.chip()
    kept = ("phase", "reason", "status", "status_since", "observed_generation")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert after["phone_number"] == "+5511988887777"
    assert after["connected_at"] is not None  # or it would ask for a QR that it does not need
    assert written.generation > loaded
    codes = [event.code for event in await scene.harness.events(scene.chip_id)]
    assert codes == ["qr"]


async def test_connected_at_is_the_latest_connection(scene: Scene) -> None:
    await scene.see(QR)
    assert (await scene.chip())["connected_at"] is None
    await scene.see(CONNECTED)
    first = (await scene.chip())["connected_at"]
    assert abs(first - await scene.harness.now()) < timedelta(seconds=5)
    await scene.see(CONNECTED)
    assert (await scene.chip())["connected_at"] == first
    await scene.see(ChipStatus(phase="reconnecting", status="CONNECTING", waha_status="STARTING"))
    assert (await scene.chip())["connected_at"] == first
    await scene.see(CONNECTED)
    assert (await scene.chip())["connected_at"] > first


async def test_the_account_stays_known_until_it_is_unlinked(scene: Scene) -> None:
    await scene.see(CONNECTED)
    await scene.see(ChipStatus(phase="disconnected", status="DISCONNECTED", waha_status="STOPPED"))
    columns = await scene.chip()
    assert (columns["phone_number"], columns["push_name"]) == ("+5511988887777", "Ana")
    unlinked = ChipStatus(
        phase="unlinked",
        status="DISCONNECTED",
        reason="unlinked",
        waha_status="SCAN_QR_CODE",
        unlinked_generation=columns["generation"],
    )
    await scene.see(unlinked)
    columns = await scene.chip()
    assert (columns["phone_number"], columns["push_name"]) == (None, None)
    assert columns["unlinked_generation"] == columns["generation"]
    assert columns["connected_at"] is not None
    await scene.see(CONNECTED)
    columns = await scene.chip()
    assert (columns["phone_number"], columns["unlinked_generation"]) == ("+5511988887777", None)


async def test_activity_is_kept_to_the_minute_and_never_goes_back(scene: Scene) -> None:
    at = datetime(2026, 5, 1, 12, 34, 56, tzinfo=UTC)

    def active(moment: datetime | None) -> ChipStatus:
        return ChipStatus(phase="connected", status="CONNECTED", connected_now=True, activity_at=moment)

    await scene.see(active(at))
    assert (await scene.chip())["last_activity_at"] == at.replace(second=0)
    before = await scene.chip()
    await scene.see(active(at + timedelta(seconds=2)))  # the same minute
    await scene.see(active(at - timedelta(hours=1)))
    await scene.see(active(None))
    assert await scene.chip() == before


async def test_health_is_stored_with_the_status(scene: Scene) -> None:
    await scene.see(QR)
    assert (await scene.chip())["health_score"] == 0
    await scene.see(CONNECTED)
    assert (await scene.chip())["health_score"] == 100
    await scene.see(ChipStatus(phase="reconnecting", status="CONNECTING"))
    assert (await scene.chip())["health_score"] == 50  # the drop counts from the next look on
    await scene.see(CONNECTED)
    assert (await scene.chip())["health_score"] == 95


async def test_each_change_of_status_is_one_event_in_portuguese(scene: Scene) -> None:
    await scene.see(ChipStatus(phase="queued", status="WAITING_QR", reason="no_port"))
    await scene.see(QR)
    await scene.see(QR)
    await scene.see(CONNECTED)
    events = await scene.harness.events(scene.chip_id)
    assert [(event.type, event.code) for event in events] == [
        ("status_change", "no_port"),
        ("status_change", "qr"),
        ("status_change", "connected"),
    ]
    assert events[0].description.startswith("Sem porta livre")
    generation = (await scene.chip())["generation"]
    assert events[2].generation == generation
    assert events[2].extra_data == {
        "from": "WAITING_QR",
        "to": "CONNECTED",
        "phase": "connected",
        "reason": None,
        "generation": generation,
    }


async def test_a_passing_outage_fills_no_history(scene: Scene) -> None:
    await scene.see(CONNECTED)
    for reason in ("dependency_nomad", None, "dependency_consul", None):
        await scene.see(ChipStatus(phase="connected", status="CONNECTED", reason=reason))
    assert [event.code for event in await scene.harness.events(scene.chip_id)] == ["connected"]


async def test_a_blind_pass_keeps_the_address_and_withdraws_the_endpoint(scene: Scene) -> None:
    await scene.see(QR)
    await scene.see(QR, ContainerStatus(phase="ready", reason="dependency_nomad", blind=True))
    columns = await scene.container()
    assert (columns["allocation_id"], columns["address"], columns["port"]) == (ALLOCATION, "10.0.0.1", 3100)
    assert (columns["node_name"], columns["reason"]) == ("host-1", "dependency_nomad")
    assert (columns["endpoint_address"], columns["endpoint_port"]) == (None, None)
    assert [placement.is_current for placement in await scene.harness.placements(scene.user_id)] == [True]


async def test_container_columns_follow_what_was_seen(scene: Scene) -> None:
    empty_since = datetime(2026, 1, 1, tzinfo=UTC)
    await scene.see(QR)
    columns = await scene.container()
    assert (columns["endpoint_address"], columns["endpoint_port"]) == ("10.0.0.1", 3100)
    assert columns["endpoint_allocation_id"] == ALLOCATION
    await scene.see(QR, ContainerStatus(phase="absent", empty_since=empty_since))
    columns = await scene.container()
    for name in ("allocation_id", "node_name", "address", "port", "endpoint_address"):
        assert columns[name] is None, name
    assert (columns["phase"], columns["empty_since"]) == ("absent", empty_since)
    assert columns["observed_generation"] == 1


async def test_a_chip_that_came_during_the_pass_is_left_alone(scene: Scene) -> None:
    await scene.see(QR)
    newcomer = await scene.harness.chip(scene.user_id)
    before = await scene.harness.chip_columns(newcomer)
    written = await scene.see(CONNECTED)
    assert await scene.harness.chip_columns(newcomer) == before
    assert before is not None
    assert written.generation == before["generation"]


async def test_only_a_deleted_chip_is_removed_and_its_history_with_it(scene: Scene) -> None:
    await scene.see(QR)
    with pytest.raises(StaleWrite):
        await scene.store.remove_chip(scene.lease, scene.chip_id, ALL)
    await scene.harness.wish(scene.chip_id, "deleted")
    await scene.see(ChipStatus(phase="deleting", status="DISCONNECTED"))
    assert [event.code for event in await scene.harness.events(scene.chip_id)] == ["qr"]
    await scene.store.remove_chip(scene.lease, scene.chip_id, ALL)
    assert await scene.harness.chip_columns(scene.chip_id) is None
    assert await scene.harness.events(scene.chip_id) == []
    await scene.store.remove_chip(scene.lease, scene.chip_id, ALL)  # a pass that was killed does it again


async def test_a_chip_is_not_removed_when_a_wish_came_since(scene: Scene) -> None:
    await scene.see(QR)
    await scene.harness.wish(scene.chip_id, "deleted")
    before = await scene.store.load(scene.user_id)
    assert before is not None
    await scene.harness.wish(await scene.harness.chip(scene.user_id), "connected")
    with pytest.raises(StaleWrite):
        await scene.store.remove_chip(scene.lease, scene.chip_id, before.container.generation)
    assert await scene.harness.chip_columns(scene.chip_id) is not None


async def test_a_chip_of_another_user_is_not_removed(scene: Scene) -> None:
    stranger = await scene.harness.chip(await scene.harness.user())
    await scene.harness.wish(stranger, "deleted")
    await scene.store.remove_chip(scene.lease, stranger, ALL)
    assert await scene.harness.chip_columns(stranger) is not None


async def test_a_container_with_chips_or_a_pin_is_not_removed(scene: Scene) -> None:
    await scene.see(QR)
    assert await scene.store.remove_container(scene.lease) is False
    await scene.harness.wish(scene.chip_id, "deleted")
    assert await scene.store.remove_container(scene.lease) is False  # the tombstone may own something
    await scene.store.remove_chip(scene.lease, scene.chip_id, ALL)
    await scene.harness.container(scene.user_id, pinned=True)
    assert await scene.store.remove_container(scene.lease) is False
    assert await scene.store.load(scene.user_id) is not None


async def test_an_empty_container_goes_with_everything_that_hangs_on_it(scene: Scene) -> None:
    await scene.see(QR)
    await scene.harness.wish(scene.chip_id, "deleted")
    await scene.store.remove_chip(scene.lease, scene.chip_id, ALL)
    assert await scene.store.remove_container(scene.lease) is True
    assert await scene.store.load(scene.user_id) is None
    assert await scene.harness.placements(scene.user_id) == []
    assert await scene.harness.ledger() == []
    assert await scene.store.remove_container(scene.lease) is True
    with pytest.raises(StaleWrite):
        await scene.store.write_status(scene.lease, READY, {}, {}, 1)
