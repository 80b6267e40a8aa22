"""`python -m bench.fleet`: what many users cost, at rest and on their way, on doubles without delays.

    converge    all users and one chip each stand in the store when the daemon starts; time until every chip
                shows its QR. Beside it: a plain script that sends the doubles the same calls through the same
                clients, as many of each kind, with as many users at a time and the same watches, and does
                nothing else. It runs twice: `in_order` finishes whoever it has begun before it begins others, as
                the daemon does, and `in_line` begins all of them first, which makes the same calls cheaper: most
                of its looks find a list in Consul that is still short. `ratio` is the daemon's time by the
                script's; `calls_more` tells where the script's calls were not as many after all. `doubles_cpu_s`
                is what the doubles' one process worked for either.
    at rest     every chip was scanned; requests a minute at the doubles by kind, and the daemon's CPU, while
                nothing happens. Calls of the sweep and its looks are told apart from all others.

Prints JSON. Exit code 1 when a user at rest cost a request outside the sweep.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop
from cryptography.fernet import Fernet
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

import sandbox.waha
from bench.plain import WORKERS, plain
from core.crypto import Sealer
from core.domain import names
from core.domain.actor import COMMAND_LINE
from core.store.containers import container_secrets
from core.store.engine import engine_for, reading, transaction
from core.store.intents import create_chip
from core.store.migrate import upgrade
from core.store.tables import chips, containers, users
from sandbox.free_ports import free_port
from sandbox.postgres import EmbeddedPostgres, scratch_folder
from sandbox.waha import phone

USERS_A_HOST: Final = 100
FIRST_PORT: Final = 21000
SCANS: Final = 3
# As long as more than these are missing they are counted once a second: each count reads the table and has
# PostgreSQL take the daemon's cores (ten a second made converging 1,000 users 3 s of 48 slower).
FEW: Final = 50
TICK: Final = os.sysconf("SC_CLK_TCK")
# What the sweep reads for all users at once; watches are the sources'.
BULK: Final = (
    "nomad GET /v1/jobs",
    "nomad GET /v1/allocations",
    "nomad GET /v1/vars",
    "consul GET /v1/health/service/waha-plus",
)


class Doubles:
    """The counting process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid
        found = msgspec.json.decode(self._line())
        self.nomad, self.consul = found["nomad"], found["consul"]

    def counts(self) -> dict[str, int]:
        """Requests by kind since the last call."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        found: dict[str, int] = msgspec.json.decode(self._line())
        return found

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@contextmanager
def doubles(
    folder: Path, count: int, first_port: int = FIRST_PORT, *, clock_speed: float = 0.05
) -> Iterator[Doubles]:
    """The doubles for `count` users. By default a QR code lives until the last user is there, and is scanned."""
    hosts = -(-count // USERS_A_HOST)
    command = [
        *(sys.executable, "-m", "bench.doubles", "--hosts", str(hosts)),
        *("--ports", str(first_port), str(first_port + USERS_A_HOST - 1), "--data", str(folder)),
        *("--clock-speed", str(clock_speed)),
    ]
    with (folder / "doubles.log").open("w") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            yield Doubles(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)


def environment(found: Doubles, database_url: str, key: str, folder: Path) -> dict[str, str]:
    return {
        "WAHAFLEET_DATABASE_URL": database_url,
        "WAHAFLEET_SECRET_KEYS": key,
        "NOMAD_ADDR": found.nomad,
        "CONSUL_HTTP_ADDR": found.consul,
        "WAHAFLEET_JOBSPEC": "waha-simulator",
        "WAHAFLEET_SIMULATOR_COMMAND": sys.executable,
        "WAHAFLEET_SIMULATOR_ARGS": str(Path(sandbox.waha.__file__).with_name("__main__.py")),
        "WAHAFLEET_STORAGE_DSN": str(folder / "waha"),
        # Webhooks go nowhere: what they would hasten is not what is measured.
        "WAHAFLEET_HOOK_BASE_URL": f"http://127.0.0.1:{free_port()}",
        "WAHAFLEET_EGRESS": "direct",
        "WAHAFLEET_WORKERS": str(WORKERS),
        "WAHAFLEET_JANITOR_S": "3600",
        # As fast as it goes: what the pace adds is a setting, not a cost.
        "WAHAFLEET_STARTS_PER_S": "1000",
        "WAHAFLEET_STARTS_PER_S_HOST": "1000",
        "WAHAFLEET_START_BURST": "10000",
        "WAHAFLEET_START_BURST_HOST": "10000",
    }


async def people(engine: AsyncEngine, sealer: Sealer, count: int) -> dict[str, str]:
    """`count` new users with one chip each: user id -> chip id."""
    made = {str(uuid.uuid4()): str(uuid.uuid4()) for _ in range(count)}
    rows = [
        {
            "id": one,
            "email": f"{one}@bench.example",
            "name": "Bench",
            "phone": "+5511999999999",
            "plan_slug": "enterprise",
        }
        for one in made
    ]
    async with transaction(engine) as connection:
        await connection.execute(insert(users), rows)
    for user_id, chip_id in made.items():
        await create_chip(
            engine, sealer, "main", user_id=user_id, chip_id=chip_id, alias="bench", actor=COMMAND_LINE
        )
    return made


async def in_phase(engine: AsyncEngine, phase: str) -> int:
    query = select(func.count()).select_from(chips).where(chips.c.phase == phase)
    async with reading(engine) as connection:
        return int((await connection.execute(query)).scalar_one())


async def until_all(engine: AsyncEngine, phase: str, count: int, limit_s: float) -> float:
    began = time.perf_counter()
    while (missing := count - await in_phase(engine, phase)) > 0:
        if time.perf_counter() - began > limit_s:
            sys.exit(f"{missing} of {count} chips are not {phase} after {limit_s:g} s")
        await asyncio.sleep(0.1 if missing <= FEW else 1.0)
    return time.perf_counter() - began


@asynccontextmanager
async def daemon(env: dict[str, str], log: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A running daemon, from the moment at which its sources run."""
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs here meanwhile
            [sys.executable, "-m", "cli.main", "daemon"],
            env={**os.environ, **env},
            stdout=output,
            stderr=output,
        )
        try:
            while b"daemon_started" not in log.read_bytes():  # noqa: ASYNC240
                if process.poll() is not None:
                    sys.exit(f"the daemon did not start:\n{log.read_text()}")  # noqa: ASYNC240
                await asyncio.sleep(0.01)
            yield process
        finally:
            process.terminate()
            process.wait(60)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


async def scan_all(engine: AsyncEngine, sealer: Sealer, made: dict[str, str]) -> None:
    gate = asyncio.Semaphore(8)

    async def scan(user_id: str, chip_id: str, number: int) -> None:
        async with gate:
            async with reading(engine) as connection:
                query = select(containers.c.endpoint_address, containers.c.endpoint_port)
                address, port = (await connection.execute(query.where(containers.c.user_id == user_id))).one()
            keys = await container_secrets(engine, user_id, sealer)
            assert keys is not None
            session = names.session_name(chip_id)
            for left in reversed(range(SCANS)):
                try:
                    await phone.scan(f"http://{address}:{port}", keys.api_key, session, f"55119{number:08d}")
                    break
                except phone.PhoneError:
                    # A thousand containers share a process with the doubles; one may answer late.
                    if not left:
                        raise

    await asyncio.gather(*(scan(*one, number) for number, one in enumerate(made.items())))


def told(counts: dict[str, int], seconds: float) -> dict[str, float]:
    return {kind: round(number * 60 / seconds, 1) for kind, number in sorted(counts.items())}


async def measure(count: int, rest_s: float, look_s: float, first_port: int) -> dict[str, Any]:
    """One fleet of `count` users: converge, come to rest, rest."""
    folder = scratch_folder()  # left in place when it fails: the daemon's log is in it
    key = Fernet.generate_key().decode()
    report: dict[str, Any] = {"users": count}
    with EmbeddedPostgres.start(folder / "postgres", durable=False) as postgres:
        url = await asyncio.to_thread(postgres.ensure_database, "bench")
        await asyncio.to_thread(upgrade, url)
        engine, sealer = engine_for(url, pool_size=10), Sealer((key,))
        (folder / "a").mkdir()
        with doubles(folder / "a", count, first_port) as found:
            env = environment(found, url, key, folder / "a") | {"WAHAFLEET_WAHA_LOOK_S": str(look_s)}
            made = await people(engine, sealer, count)
            found.counts()
            async with daemon(env, folder / "daemon.log") as process:
                before, doubles_before = cpu_s(process.pid), cpu_s(found.pid)
                took_s = await until_all(engine, "qr", count, 600)
                daemon_s, doubles_s = cpu_s(process.pid) - before, cpu_s(found.pid) - doubles_before
                calls = Counter(found.counts())
                report["converge"] = {
                    "seconds": round(took_s, 2),
                    "daemon_cpu_s": round(daemon_s, 2),
                    "doubles_cpu_s": round(doubles_s, 2),
                    "calls_a_user": {kind: round(n / count, 2) for kind, n in sorted(calls.items())},
                }
                sys.stderr.write(f"converged: {msgspec.json.encode(report).decode()}\n")
                await scan_all(engine, sealer, made)
                await until_all(engine, "connected", count, 300)
                await asyncio.sleep(20)
                report["at_rest"] = await rest(found, process.pid, rest_s)
        for order in ("in_order", "in_line"):
            (folder / order).mkdir()
            with doubles(folder / order, count, first_port) as found:
                env = environment(found, url, key, folder / order)
                plain_before, doubles_before = cpu_s(os.getpid()), cpu_s(found.pid)
                plain_s, more = await plain(env, count, calls, found.counts, begun_first=order == "in_order")
                plain_cpu_s = cpu_s(os.getpid()) - plain_before
                report["converge"][f"plain_{order}"] = {
                    "seconds": round(plain_s, 2),
                    "cpu_s": round(plain_cpu_s, 2),
                    "doubles_cpu_s": round(cpu_s(found.pid) - doubles_before, 2),
                    "calls_more": more,
                    "ratio": round(took_s / plain_s, 2),
                    "cpu_ratio": round(daemon_s / plain_cpu_s, 2),
                }
        await engine.dispose()
    shutil.rmtree(folder, ignore_errors=True)
    return report


async def rest(found: Doubles, pid: int, rest_s: float) -> dict[str, Any]:
    found.counts()
    began, before = time.perf_counter(), cpu_s(pid)
    await asyncio.sleep(rest_s)
    seconds, used = time.perf_counter() - began, cpu_s(pid) - before
    counts = found.counts()
    looks = counts.get("waha GET /api/sessions", 0)
    # A look is one pass: it reads the job, its allocations, Consul's instances, and WAHA.
    swept = {kind: n for kind, n in counts.items() if kind in BULK or kind.endswith("(watch)")}
    of_users = {kind: n for kind, n in counts.items() if kind not in swept}
    return {
        "seconds": round(seconds, 1),
        "requests_a_minute": told(counts, seconds),
        "of_the_sweep_a_minute": told(swept, seconds),
        "of_users_a_minute": told(of_users, seconds),
        "looks_a_minute": round(looks * 60 / seconds, 1),
        "daemon_cpu_percent": round(100 * used / seconds, 2),
        # With looks in the measured time nothing tells their requests from those of others.
        "requests_of_users": sum(of_users.values()) if not looks else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--rest", type=float, default=120.0, help="seconds of rest that are measured")
    parser.add_argument(
        "--looks", type=float, default=86400.0, help="WAHAFLEET_WAHA_LOOK_S; the default leaves looks out"
    )
    parser.add_argument("--first-port", type=int, default=FIRST_PORT, help="of the containers on each host")
    given = parser.parse_args()
    # The plain script runs in this process: on the loop that the daemon runs on.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        fleets = [
            runner.run(measure(count, given.rest, given.looks, given.first_port)) for count in given.users
        ]
    report = {
        "benchmark": "fleet",
        "machine": {"python": platform.python_version(), "processors": os.cpu_count()},
        "workers": WORKERS,
        "fleets": fleets,
    }
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")
    outside = [fleet["users"] for fleet in fleets if fleet["at_rest"]["requests_of_users"]]
    for count in outside:
        sys.stderr.write(f"{count} users at rest cost requests outside the sweep.\n")
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())
