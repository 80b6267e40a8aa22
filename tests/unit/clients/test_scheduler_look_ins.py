"""What a node's agent answers about an allocation, read as facts or as errors of ours."""

from __future__ import annotations

import base64
import json

import pytest

from core.clients.scheduler_errors import of_client
from core.clients.scheduler_look_ins import Usage, pieces_of, usage_of
from core.domain.log_lines import Piece
from core.errors import AppError, Missing, StaleWrite, Unavailable


def stats(**task: object) -> bytes:
    return json.dumps({"ResourceUsage": {}, "Tasks": {"waha_plus": task}, "Timestamp": 1}).encode()


def used(percent: float, **memory: int) -> dict[str, object]:
    return {"CpuStats": {"Percent": percent}, "MemoryStats": memory, "DeviceStats": None}


@pytest.mark.parametrize(
    ("memory", "bytes_"),
    [
        ({"RSS": 100, "Usage": 300, "Cache": 50}, 100),
        ({"RSS": 0, "Usage": 300, "Cache": 50}, 250),
        ({"Usage": 10, "Cache": 50}, 0),
        ({}, 0),
    ],
)
def test_memory_is_what_cannot_be_taken_back(memory: dict[str, int], bytes_: int) -> None:
    body = stats(ResourceUsage=used(12.5, **memory), Timestamp=7)
    assert usage_of(body) == Usage(12.5, bytes_, 7)


@pytest.mark.parametrize(
    "body",
    [
        b'{"Tasks": {}, "Timestamp": 0}',
        b'{"Tasks": null}',
        b'{"Tasks": {"waha_plus": null}}',
        stats(ResourceUsage=None, Timestamp=7),
        stats(ResourceUsage=used(1.0), Timestamp=0),
        b'{"Tasks": {"other": {"ResourceUsage": {}, "Timestamp": 7}}}',
    ],
)
def test_a_task_that_was_not_measured_is_missing(body: bytes) -> None:
    with pytest.raises(Missing):
        usage_of(body)


@pytest.mark.parametrize("body", [b"", b"oops", b"[]", b'{"Tasks": 3}', b"\xff"])
def test_stats_without_the_agreed_form_are_no_answer(body: bytes) -> None:
    with pytest.raises(Unavailable):
        usage_of(body)


def frame(data: bytes, file: str, end: int) -> str:
    return json.dumps({"Data": base64.b64encode(data).decode(), "File": file, "Offset": end})


def test_frames_stand_one_behind_the_other() -> None:
    body = (
        frame(b"one\n", "alloc/logs/waha_plus.stdout.3", 104)
        + "{}"
        + frame(b"two\n", "alloc/logs/waha_plus.stdout.3", 108)
        + "\n"
        + frame(b"three", "alloc/logs/waha_plus.stdout.10", 5)
    )
    assert pieces_of(body) == (Piece(3, 100, b"one\n"), Piece(3, 104, b"two\n"), Piece(10, 0, b"three"))
    assert pieces_of("") == ()
    assert pieces_of("{}") == ()


@pytest.mark.parametrize(
    "body", ["oops", '{"Data": 3}', '{"Data": "%%", "File": "x.stdout.0"}', '{"Data"', "[1]"]
)
def test_frames_without_the_agreed_form_are_no_answer(body: str) -> None:
    with pytest.raises(Unavailable):
        pieces_of(body)


@pytest.mark.parametrize(
    ("raised", "as_"),
    [
        (Missing("nomad", "404 No path to node"), Unavailable),
        (Missing("nomad", '404 Unknown allocation "x"'), Missing),
        (Unavailable("nomad", "500 Task not running"), StaleWrite),
        (Unavailable("nomad", "500 rpc error"), Unavailable),
    ],
)
def test_what_a_node_refuses_means_something_of_its_own(raised: AppError, as_: type[AppError]) -> None:
    with pytest.raises(as_), of_client():
        raise raised
