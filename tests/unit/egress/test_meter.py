"""Meters: nothing is lost, nothing is counted twice, whatever becomes of a batch on its way."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.egress_errors import EgressError
from core.domain.guard_wire import Usage, UsageRow
from core.errors import Rejected, Unavailable
from egress.meter import Meter
from tests.unit.egress.fakes import ALLOCATION, CHIP, NODE, OTHER, USER, FakeApi, route


def meter() -> Meter:
    numbers = itertools.count(1)
    return Meter(NODE, lambda: f"batch-{next(numbers)}")


def test_a_batch_says_what_each_chip_used_and_the_next_begins_at_nothing() -> None:
    one = meter()
    cell = one.cell(route())
    cell.bytes_in, cell.bytes_out, cell.tunnels = 10, 5, 1
    cell.failed(EgressError.PROXY_AUTH)
    cell.failed(EgressError.PROXY_AUTH)
    batch = one.batch()
    expected = UsageRow(CHIP, ALLOCATION, USER, "generic", 10, 5, 1, {EgressError.PROXY_AUTH: 2})
    assert batch == Usage(NODE, "batch-1", (expected,))
    assert one.cell(route()) is cell
    cell.bytes_in = 3
    assert one.batch() is batch  # until it is told
    one.told("another")
    assert one.batch() is batch
    one.told("batch-1")
    assert one.batch() == Usage(NODE, "batch-2", (UsageRow(CHIP, ALLOCATION, USER, "generic", 3, 0, 0, {}),))
    assert one.totals() == (13, 5)


def test_what_was_not_used_is_not_told_and_forgotten_unless_a_tunnel_holds_it() -> None:
    one = meter()
    held, left = one.cell(route()), one.cell(route(OTHER))
    held.held = 1
    assert one.batch() is None
    assert one.cell(route()) is held
    assert one.cell(route(OTHER)) is not left


def test_a_chip_without_upstream_counts_its_refusals() -> None:
    one = meter()
    one.cell(route(upstream=None)).failed(EgressError.NO_UPSTREAM)
    batch = one.batch()
    assert batch is not None
    assert batch.rows[0].provider == ""


def test_a_batch_that_is_never_taken_does_not_hold_up_the_next() -> None:
    async def go() -> None:
        api, one = FakeApi(), meter()
        one.cell(route()).bytes_in = 1
        api.usage_failure = Rejected("api", "no")
        assert await one.flush(api)
        assert await one.flush(api)
        api.usage_failure = None
        one.cell(route()).bytes_in = 2
        assert await one.flush(api)
        assert [batch.batch_id for batch in api.batches] == ["batch-2"]

    asyncio.run(go())


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["in", "out", "tunnel", "error", "lost", "unheard", "told"]), st.integers(0, 99)
        ),
        max_size=60,
    )
)
def test_whatever_becomes_of_batches_each_byte_is_counted_once(steps: list[tuple[str, int]]) -> None:
    """`lost`: the API never got it. `unheard`: it counted, and its answer got lost."""
    one, used = meter(), Counter[str]()
    counted: dict[str, Usage] = {}

    def count(batch: Usage) -> None:
        if batch.batch_id in counted:
            assert counted[batch.batch_id] == batch
        counted[batch.batch_id] = batch

    for kind, amount in [*steps, ("told", 0), ("told", 0)]:
        cell = one.cell(route())
        if kind == "in":
            cell.bytes_in += amount
        elif kind == "out":
            cell.bytes_out += amount
        elif kind == "tunnel":
            cell.tunnels += 1
        elif kind == "error":
            cell.failed(EgressError.NO_PEER)
        else:
            batch = one.batch()
            if batch is not None and kind != "lost":
                count(batch)
                if kind == "told":
                    one.told(batch.batch_id)
            continue
        used[kind] += amount if kind in ("in", "out") else 1
    rows = [row for batch in counted.values() for row in batch.rows]
    assert sum(row.bytes_in for row in rows) == used["in"]
    assert sum(row.bytes_out for row in rows) == used["out"]
    assert sum(row.tunnels for row in rows) == used["tunnel"]
    assert sum(sum(row.errors.values()) for row in rows) == used["error"]


@pytest.mark.parametrize("failure", [Unavailable("api", "away")])
def test_a_batch_is_sent_again_under_its_id_until_it_is_heard(failure: Unavailable) -> None:
    async def go() -> None:
        api, one = FakeApi(), meter()
        one.cell(route()).bytes_out = 7
        api.usage_failure = failure
        assert not await one.flush(api)
        one.cell(route()).bytes_out = 8
        assert not await one.flush(api)
        api.usage_failure = None
        assert await one.flush(api)
        assert await one.flush(api)
        assert await one.flush(api)
        assert [(batch.batch_id, batch.rows[0].bytes_out) for batch in api.batches] == [
            ("batch-1", 7),
            ("batch-2", 8),
        ]

    asyncio.run(go())
