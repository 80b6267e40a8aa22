"""Whatever is thrown at the listener, it answers or hangs up, and nothing of it stays: 10,000 connections.

The guard runs as in production, on uvloop, in a thread of its own. A round is a few connections at once, so that they
meet each other too.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from core.clock import boottime
from egress.main import Guard, running
from tests.integration.egress.conftest import credential, guard_settings
from tests.scale import examples
from tests.unit.egress.fakes import ALLOCATION, UPSTREAM, FakeApi, route

AT_ONCE = 50
# 10,000 connections in a quick run, 100,000 at most in a long one.
ROUNDS = min(examples(200), 2000)
# Who waits for an answer to half a request waits for this long.
HEAD_S = 0.1

_user, _password = credential()
_basic = base64.b64encode(f"{_user}:{_password}".encode())
VALID = (
    b"CONNECT echo.whatsapp.net:443 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic " + _basic + b"\r\n\r\n"
)


class Payload(bytes):
    """Bytes of which a report shows only how many and the first."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes: {self[:40]!r}>"


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A good request with a few bytes changed, taken away or put in."""
    text = bytearray(VALID)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        piece = draw(
            st.binary(max_size=6) | st.sampled_from([b"\r\n", b"\n", b"\0", b" ", b":", b"\r\n\r\n", b"\xff"])
        )
        text[at : at + draw(st.integers(0, 6))] = piece
    return bytes(text)


huge = (
    st.integers(4000, 70_000).map(lambda size: VALID[:-2] + b"x: " + b"y" * size + b"\r\n\r\n").map(Payload)
)
many = st.integers(50, 2000).map(lambda count: VALID[:-2] + b"a: b\r\n" * count + b"\r\n").map(Payload)
cut_short = st.integers(0, len(VALID) - 1).map(lambda end: VALID[:end])
elsewhere = st.sampled_from([b"example.com:443", b"127.0.0.1:443", b"[::1]:443", b"g.whatsapp.net:22"]).map(
    lambda target: VALID.replace(b"echo.whatsapp.net:443", target)
)
payloads = st.one_of(st.binary(max_size=300), mutations(), huge, many, cut_short, elsewhere, st.just(VALID))
# What is sent, in how many pieces, and how it ends: shut = no more comes, gone = reset, open = it waits for an answer.
attempts = st.tuples(payloads, st.integers(1, 5), st.sampled_from(["shut", "gone", "open"]))


@contextmanager
def guard_in_a_thread() -> Iterator[tuple[Guard, asyncio.AbstractEventLoop]]:
    """Its upstream is a port that nobody listens on, so a good request gets an answer too."""
    api = FakeApi()
    api.current[ALLOCATION] = 1
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        api.routes = [route(upstream=replace(UPSTREAM, port=nobody.getsockname()[1]))]
        started, stop = threading.Event(), asyncio.Event()
        found: list[tuple[Guard, asyncio.AbstractEventLoop]] = []

        async def serve() -> None:
            async with running(guard_settings(head_s=HEAD_S), api, boottime()) as (guard, _):
                found.append((guard, asyncio.get_running_loop()))
                started.set()
                await stop.wait()

        def run() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve())

        thread = threading.Thread(target=run)
        thread.start()
        assert started.wait(10)
        try:
            yield found[0]
        finally:
            found[0][1].call_soon_threadsafe(stop.set)
            thread.join(10)
            assert not thread.is_alive()


def tried(address: tuple[str, int], attempt: tuple[bytes, int, str]) -> socket.socket:
    payload, pieces, end = attempt
    sock = socket.create_connection(address, timeout=5)
    size = max(1, len(payload) // pieces)
    try:
        for at in range(0, len(payload), size):
            sock.sendall(payload[at : at + size])
        if end == "shut":
            sock.shutdown(socket.SHUT_WR)
        elif end == "gone":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            sock.close()
    except OSError:
        pass  # it was hung up on while it spoke
    return sock


def answer(sock: socket.socket) -> bytes:
    """Everything up to the end; it must come to one."""
    got = b""
    try:
        while more := sock.recv(4096):
            got += more
    except TimeoutError:
        pytest.fail(f"neither answered nor hung up on: {got!r}")
    except OSError:
        pass
    finally:
        sock.close()
    return got


def test_whatever_comes_is_answered_or_hung_up_on_and_leaves_nothing() -> None:
    with guard_in_a_thread() as (guard, loop):
        sent = 0

        @settings(max_examples=ROUNDS, database=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(attempts, min_size=AT_ONCE, max_size=AT_ONCE))
        def rounds(given_: list[tuple[bytes, int, str]]) -> None:
            nonlocal sent
            socks = [tried(guard.address, attempt) for attempt in given_]
            for sock in socks:
                if sock.fileno() >= 0:
                    said = answer(sock)
                    assert said == b"" or said.startswith((b"HTTP/1.1 4", b"HTTP/1.1 504 ")), said
                    assert b"200" not in said[:12]
            sent += len(given_)

        files = len(os.listdir("/proc/self/fd"))
        rounds()
        assert sent >= 10_000
        deadline = time.monotonic() + 10
        while guard.listener.knocking and time.monotonic() < deadline:
            time.sleep(0.02)
        assert guard.listener.knocking == 0
        assert guard.listener.tunnels == set()
        tasks = asyncio.run_coroutine_threadsafe(count_tasks(), loop).result(5)
        assert tasks == 4 + 1  # leases, sweep, usage, the guard itself; and the one that counts
        assert len(os.listdir("/proc/self/fd")) <= files + 2
        lease = guard.leases.find(ALLOCATION)
        assert lease is not None
        assert lease.open == set()
        assert lease.waiting == []
        # It still does its work.
        with socket.create_connection(guard.address, timeout=5) as sock:
            sock.sendall(VALID)
            assert sock.recv(4096).startswith(b"HTTP/1.1 504 ")


async def count_tasks() -> int:
    return len(asyncio.all_tasks())


def test_a_thousand_bad_requests_leave_no_memory_behind() -> None:
    with guard_in_a_thread() as (guard, _):
        mixed = [b"\x16\x03\x01" + os.urandom(200), VALID[:-2] + b"x: " + b"y" * 60_000, VALID[:40], VALID]

        def throw(rounds: int) -> None:
            for number in range(rounds):
                sock = tried(guard.address, (mixed[number % len(mixed)], 2, "shut"))
                answer(sock)

        throw(200)
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            throw(1000)
            while guard.listener.knocking:
                time.sleep(0.02)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert grown < 64 * 1024, grown


def test_slow_ones_are_hung_up_on_in_time_however_many_there_are() -> None:
    """More than may knock at a time: the others wait in the kernel's line until those are hung up on."""
    with guard_in_a_thread() as (guard, _):
        slow = [socket.create_connection(guard.address, timeout=10) for _ in range(700)]
        began = time.monotonic()
        for sock in slow:
            sock.sendall(b"CONNECT ")
        with socket.create_connection(guard.address, timeout=10) as sock:
            sock.sendall(VALID)
            assert sock.recv(4096).startswith(b"HTTP/1.1 504 ")
        assert time.monotonic() - began < 5
        for one in slow:
            assert answer(one) == b""
