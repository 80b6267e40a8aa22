"""`python -m bench.egress`: what a guard costs on the way to a SOCKS5 server, against going there straight.

    straight    client -> SOCKS5 server -> source
    guard       client -> guard -> the same SOCKS5 server -> the same source

Both in turn, in the same run: throughput of one tunnel and of many, the time of a byte and its answer, and what an idle
tunnel takes of the guard's memory. The SOCKS5 server is `microsocks` where it is on PATH; without one the benchmark is
not run. Prints JSON; exit code 1 when the guard has less than `--least` of the straight way's throughput.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import platform
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import uvloop

from core.domain.chip_credentials import chip_password, chip_user, node_key
from core.domain.guard_wire import Answer, Renew, Renewed, Route, Standing, Upstream
from core.status_server import listening
from sandbox.free_ports import free_port

MIB: Final = 1024 * 1024
_CHIP, _ALLOCATION, _NODE = (f"00000000-0000-4000-8000-00000000000{digit}" for digit in "123")
_KEY = node_key(b"bench", _NODE)
_LOGIN, _PASSWORD = "login", "password"
_SOURCE = """
import asyncio, struct, sys, uvloop
BLOCK = bytes(256 * 1024)
class Source(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.left, self.asked, self.held = transport, 0, b"", False
    def data_received(self, data):
        self.asked += data
        while len(self.asked) >= 8:
            self.left += struct.unpack("!Q", self.asked[:8])[0]
            self.asked = self.asked[8:]
        self.send()
    def send(self):
        while self.left and not self.held:
            size = min(self.left, len(BLOCK))
            self.left -= size
            self.transport.write(BLOCK if size == len(BLOCK) else BLOCK[:size])
    def pause_writing(self):
        self.held = True
    def resume_writing(self):
        self.held = False
        self.send()
async def main():
    server = await asyncio.get_running_loop().create_server(Source, "127.0.0.1", int(sys.argv[1]), backlog=2048)
    await server.serve_forever()
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


class Api:
    """The API's internal routes, as far as a guard needs them: everything is granted."""

    def __init__(self, upstream: Upstream) -> None:
        self._route = Route(_ALLOCATION, _CHIP, _CHIP, 1, "label", upstream)

    async def __call__(self, scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        answer = b"{}"
        if scope["path"].endswith("/renew"):
            asks = msgspec.json.decode(body, type=Renew).asks
            granted = tuple(Answer(ask.allocation_id, Standing.GRANTED, 1, 1, 90.0) for ask in asks)
            answer = msgspec.json.encode(Renewed(granted, (self._route,)))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer})


class Way:
    """One of the two ways to the source. `open` gives a connected socket."""

    def __init__(self, name: str, port: int, source: int) -> None:
        self.name = name
        self._port = port
        self._source = source

    async def open(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(sock, ("127.0.0.1", self._port))
        if self.name == "guard":
            user, password = chip_user(_CHIP, _ALLOCATION), chip_password(_KEY, _CHIP, _ALLOCATION, 1)
            basic = base64.b64encode(f"{user}:{password}".encode()).decode()
            await loop.sock_sendall(
                sock,
                f"CONNECT localhost:{self._source} HTTP/1.1\r\nProxy-Authorization: Basic {basic}\r\n\r\n".encode(),
            )
            said = await loop.sock_recv(sock, 4096)
            if b" 200 " not in said:
                sys.exit(f"the guard refused: {said!r}")
            return sock
        await loop.sock_sendall(sock, b"\x05\x01\x02")
        await _exactly(sock, 2)
        login = bytes((1, len(_LOGIN))) + _LOGIN.encode() + bytes((len(_PASSWORD),)) + _PASSWORD.encode()
        await loop.sock_sendall(sock, login)
        await _exactly(sock, 2)
        await loop.sock_sendall(sock, b"\x05\x01\x00\x03\x09localhost" + struct.pack("!H", self._source))
        answer = await _exactly(sock, 10)
        if answer[1] != 0:
            sys.exit(f"the SOCKS5 server refused: {answer[1]}")
        return sock


async def _exactly(sock: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        more = await asyncio.get_running_loop().sock_recv(sock, count - len(got))
        if not more:
            sys.exit("the SOCKS5 server hung up")
        got += more
    return got


async def _drawn(sock: socket.socket, count: int) -> None:
    loop, buffer = asyncio.get_running_loop(), bytearray(256 * 1024)
    await loop.sock_sendall(sock, struct.pack("!Q", count))
    while count:
        got = await loop.sock_recv_into(sock, buffer)
        if not got:
            sys.exit("the tunnel ended early")
        count -= got


async def throughput(way: Way, tunnels: int, mib: int) -> float:
    """MiB a second over so many tunnels together, `mib` in all."""
    socks = await _opened(way, tunnels)
    each = mib * MIB // tunnels
    began = time.perf_counter()
    await asyncio.gather(*(_drawn(sock, each) for sock in socks))
    took_s = time.perf_counter() - began
    for sock in socks:
        sock.close()
    return each * tunnels / MIB / took_s


async def latency(way: Way, rounds: int) -> float:
    """Milliseconds from a request of eight bytes to its answer of one, at the median."""
    sock = await way.open()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        await _drawn(sock, 1)
        taken.append(time.perf_counter() - began)
    sock.close()
    return statistics.median(taken) * 1000


async def _opened(way: Way, count: int) -> list[socket.socket]:
    found: list[socket.socket] = []
    while len(found) < count:
        found += await asyncio.gather(*(way.open() for _ in range(min(50, count - len(found)))))
    return found


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def idle_bytes(way: Way, pid: int, tunnels: int) -> float:
    """What a tunnel that has carried something and is silent now adds to the guard's resident memory."""
    warm = await _opened(way, 50)
    before = _resident(pid)
    socks = await _opened(way, tunnels)
    for sock in socks:
        await _drawn(sock, 1000)
    taken = (_resident(pid) - before) / tunnels
    for sock in (*warm, *socks):
        sock.close()
    return taken


@asynccontextmanager
async def _ways(server: str) -> AsyncIterator[tuple[Way, Way, int]]:
    source, socks, guard = free_port(), free_port(), free_port()
    upstream = Upstream("socks5", "127.0.0.1", socks, _LOGIN, _PASSWORD, "generic")
    with tempfile.TemporaryDirectory(prefix="wahafleet-bench-", dir="/var/tmp") as folder:
        log = Path(folder) / "guard.log"
        async with listening(Api(upstream), "127.0.0.1:0", setting="(bench)") as url:
            env = {name: value for name, value in os.environ.items() if not name.startswith("WAHAFLEET_")}
            env |= {
                "WAHAFLEET_GUARD_LISTEN": f"127.0.0.1:{guard}",
                "WAHAFLEET_GUARD_STATUS_LISTEN": "127.0.0.1:0",
                "WAHAFLEET_GUARD_NODE_ID": _NODE,
                "WAHAFLEET_GUARD_KEY": _KEY.hex(),
                "WAHAFLEET_GUARD_API_URL": str(url),
                "WAHAFLEET_GUARD_DESTINATIONS": "localhost",
                "WAHAFLEET_GUARD_PORTS": str(source),
            }
            with log.open("wb") as output:
                commands = (
                    ([sys.executable, "-c", _SOURCE, str(source)], None),
                    ([server, "-i", "127.0.0.1", "-p", str(socks), "-u", _LOGIN, "-P", _PASSWORD], None),
                    ([sys.executable, "-m", "cli.main", "egress"], env),
                )
                processes = [_started(command, output, own) for command, own in commands]
            try:
                for port in (source, socks, guard):
                    await _answers(port)
                yield Way("straight", socks, source), Way("guard", guard, source), processes[2].pid
            finally:
                for process in processes:
                    process.terminate()
                for process in processes:
                    process.wait(20)


def _started(command: list[str], output: IO[bytes], env: dict[str, str] | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=output, stderr=output, env=env)


async def _answers(port: int) -> None:
    for _ in range(300):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return
    sys.exit(f"nobody answers on port {port}")


async def measured(server: str, given: argparse.Namespace) -> dict[str, Any]:
    taken: dict[str, dict[str, list[float]]] = {
        name: {"straight": [], "guard": []} for name in ("one", "many", "latency")
    }
    async with _ways(server) as (straight, guard, pid):
        # First of all: later the process has memory to spare that it once used.
        idle = await idle_bytes(guard, pid, given.idle)
        for number in range(given.rounds + 1):
            for way in (straight, guard) if number % 2 else (guard, straight):
                one = await throughput(way, 1, given.mib)
                many = await throughput(way, given.tunnels, given.mib)
                answer = await latency(way, 300)
                if number:  # the first round warms everything up
                    taken["one"][way.name].append(one)
                    taken["many"][way.name].append(many)
                    taken["latency"][way.name].append(answer)
        cpu_s = [_cpu_s(pid)]
        for tunnels in (1, given.tunnels):
            await throughput(guard, tunnels, given.mib)
            cpu_s.append(_cpu_s(pid))
        resident = _resident(pid)
    middle = {name: {way: statistics.median(of) for way, of in ways.items()} for name, ways in taken.items()}
    return {
        "one_tunnel_mib_s": _rounded(middle["one"]),
        "one_tunnel_ratio": round(middle["one"]["guard"] / middle["one"]["straight"], 2),
        "many_tunnels": given.tunnels,
        "many_tunnels_mib_s": _rounded(middle["many"]),
        "many_tunnels_ratio": round(middle["many"]["guard"] / middle["many"]["straight"], 2),
        "answer_ms": {way: round(value, 3) for way, value in middle["latency"].items()},
        "added_ms": round(middle["latency"]["guard"] - middle["latency"]["straight"], 3),
        "guard_cpu_s_per_gib": {
            "one": round((cpu_s[1] - cpu_s[0]) / given.mib * 1024, 2),
            "many": round((cpu_s[2] - cpu_s[1]) / given.mib * 1024, 2),
        },
        "idle_tunnel_bytes": round(idle),
        "guard_resident_mib": round(resident / MIB, 1),
    }


def _rounded(ways: dict[str, float]) -> dict[str, float]:
    return {way: round(value) for way, value in ways.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.egress", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds of each way")
    parser.add_argument("--mib", type=int, default=512, help="what is drawn in each measurement")
    parser.add_argument("--tunnels", type=int, default=500, help="how many are many")
    parser.add_argument("--idle", type=int, default=1000, help="tunnels that the memory is measured with")
    parser.add_argument("--least", type=float, default=0.7, help="share of the straight way's throughput")
    given = parser.parse_args()
    server = shutil.which("microsocks")
    if server is None:
        sys.exit("there is no `microsocks` on PATH; install it and run the benchmark again.")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measured(server, given))
    report = {
        "benchmark": "egress",
        "rounds": given.rounds,
        "machine": {"python": platform.python_version(), "processors": os.cpu_count()},
        "least_ratio": given.least,
        "results": found,
    }
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")
    short = [name for name in ("one_tunnel_ratio", "many_tunnels_ratio") if found[name] < given.least]
    for name in short:
        sys.stderr.write(f"{name} is {found[name]}, less than {given.least:g}.\n")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
