"""What a poll costs beside a bare handler: requests a second of each, measured in turn."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
from cryptography.fernet import Fernet
from sqlalchemy import func, update

from api.tokens import Tokens
from bench.fleet import cpu_s
from core.clock import SystemClock
from core.crypto import Sealer
from core.domain.actor import COMMAND_LINE
from core.settings import load
from core.store.engine import engine_for, transaction
from core.store.intents import create_chip
from core.store.migrate import upgrade
from core.store.tables import chips, containers
from core.store.users_admin import ensure_user
from core.variables import NO_LIMITS
from sandbox.free_ports import free_port
from sandbox.postgres import EmbeddedPostgres, scratch_folder
from sandbox.tether import TetheredProcess
from sandbox.valkey import EmbeddedValkey

CHIPS: Final = 10
SECRET: Final = "k" * 40
_TOTAL: Final = re.compile(r"(\d+) requests in ")
_RATE: Final = re.compile(r"Requests/sec:\s+([\d.]+)")
_REFUSED: Final = re.compile(r"Non-2xx or 3xx responses: (\d+)")


class Sample(msgspec.Struct, frozen=True):
    """One run of wrk: requests a second, and a server's CPU microseconds a request."""

    rate: float
    cpu_us: float


class Target(msgspec.Struct, frozen=True):
    """What wrk asks, and the process that answers."""

    url: str
    headers: dict[str, str]
    pid: int


def environment(database_url: str, redis_url: str, key: str) -> dict[str, str]:
    """Settings of an API."""
    return {
        "WAHAFLEET_DATABASE_URL": database_url,
        "WAHAFLEET_REDIS_URL": redis_url,
        "WAHAFLEET_SECRET_KEYS": key,
        "JWT_SECRET_KEY": SECRET,
        "WAHAFLEET_EGRESS": "direct",
        **NO_LIMITS,
    }


@contextmanager
def process(
    argv: tuple[str, ...], env: Mapping[str, str], log: Path, ready: Callable[[], bool]
) -> Iterator[int]:
    """A Python program, from the moment at which it is ready on; its process id."""
    command = (sys.executable, "-m", *argv)
    with TetheredProcess.start(command, env={**os.environ, **env}, log=log) as child:
        deadline = time.monotonic() + 60
        while not ready():
            if child.exit_code() is not None or time.monotonic() > deadline:
                sys.exit(f"{' '.join(argv)} did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield child.pid


def answers(url: str) -> bool:
    """Whether anything answers there."""
    try:
        httpx.get(url, trust_env=False, timeout=1)
    except httpx.HTTPError:
        return False
    return True


async def seeded(database_url: str, key: str) -> tuple[str, str]:
    """A user with ten connected chips: id, access token."""
    engine, sealer = engine_for(database_url), Sealer((key,))
    user = await ensure_user(
        engine,
        email="bench@bench.example",
        password_hash="none",
        name="Bench",
        phone="+5511999999999",
        plan_slug="enterprise",
        actor=COMMAND_LINE,
    )
    for number in range(CHIPS):
        await create_chip(
            engine,
            sealer,
            "main",
            user_id=user,
            chip_id=str(uuid.uuid4()),
            alias=f"loja {number}",
            actor=COMMAND_LINE,
        )
    async with transaction(engine) as connection:
        await connection.execute(update(containers).values(phase="ready", port=3100, node_name="host-1"))
        await connection.execute(
            update(chips).values(
                observed_generation=chips.c.generation,
                phase="connected",
                status="CONNECTED",
                waha_status="WORKING",
                phone_number="+5511988887777",
                health_score=100,
                connected_at=func.clock_timestamp(),
                last_activity_at=func.clock_timestamp(),
            )
        )
    await engine.dispose()
    settings = load({**environment(database_url, "redis://127.0.0.1/0", key)}, part="api")
    return user, Tokens(settings.api, SystemClock()).issue(user).access_token


def wrk(target: Target, connections: int, seconds: float) -> Sample:
    """One run against `target`. Exits when an answer was an error."""
    headers = [part for name, value in target.headers.items() for part in ("-H", f"{name}: {value}")]
    before = cpu_s(target.pid)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", *headers, target.url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if _REFUSED.search(said):
        sys.exit(f"{target.url} answered with errors:\n{said}")
    total, rate = _TOTAL.search(said), _RATE.search(said)
    assert total is not None
    assert rate is not None
    return Sample(float(rate[1]), 1e6 * (cpu_s(target.pid) - before) / int(total[1]))


@contextmanager
def targets() -> Iterator[dict[str, Target]]:
    """The API and the bare handlers on one store and one Redis, and what to ask them."""
    folder = scratch_folder()
    key = Fernet.generate_key().decode()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = stack.enter_context(EmbeddedPostgres.start(folder / "postgres", durable=False))
        valkey = stack.enter_context(EmbeddedValkey.start(folder / "valkey"))
        url = postgres.ensure_database("bench")
        upgrade(url)
        user, token = asyncio.run(seeded(url, key))
        env = environment(url, valkey.url(), key)
        ours, bare = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        pid = stack.enter_context(
            process(
                ("cli.main", "api", "--port", ours.rpartition(":")[2]),
                env,
                folder / "api.log",
                partial(answers, f"{ours}/health"),
            )
        )
        argv = (
            "bench.api_bare",
            "--port",
            bare.rpartition(":")[2],
            "--database",
            url,
            "--redis",
            valkey.url(),
        )
        bare_pid = stack.enter_context(
            process((*argv, "--secret", SECRET), {}, folder / "bare.log", partial(answers, bare))
        )
        bearer = {"Authorization": f"Bearer {token}"}
        listed = httpx.get(f"{ours}/api/v1/chips", headers=bearer, trust_env=False)
        assert len(listed.raise_for_status().json()) == CHIPS
        chip = listed.json()[0]["id"]
        same = {**bearer, "If-None-Match": listed.headers["etag"]}
        unchanged = httpx.get(f"{ours}/api/v1/chips", headers=same, trust_env=False)
        assert unchanged.status_code == 304
        yield {
            "list": Target(f"{ours}/api/v1/chips", bearer, pid),
            "list_304": Target(f"{ours}/api/v1/chips", same, pid),
            "chip": Target(f"{ours}/api/v1/chips/{chip}", bearer, pid),
            "qr": Target(f"{ours}/api/v1/chips/{chip}/qr", bearer, pid),
            "bare_row": Target(f"{bare}/row/{user}", {}, bare_pid),
            "bare_list": Target(f"{bare}/list/{user}", {}, bare_pid),
            "bare_jwt_redis": Target(f"{bare}/same/{user}", bearer, bare_pid),
        }


def measure(rounds: int, seconds: float, connections: int, say: Callable[[str], object]) -> dict[str, Any]:
    """Medians by target over `rounds`, each of which asks every target in turn, and the ratios."""
    taken: dict[str, list[Sample]] = {}
    with targets() as found:
        for target in found.values():
            wrk(target, connections, 1)
        for number in range(rounds):
            for name, target in found.items() if number % 2 else reversed(found.items()):
                taken.setdefault(name, []).append(wrk(target, connections, seconds))
            say(f"round {number + 1} of {rounds}")
    return {
        "connections": connections,
        "seconds_a_run": seconds,
        "rounds": rounds,
        "requests_a_second": {name: round(_median(taken[name], "rate")) for name in found},
        "best_requests_a_second": {name: round(max(s.rate for s in taken[name])) for name in found},
        "server_cpu_us_a_request": {name: round(_median(taken[name], "cpu_us")) for name in found},
        "ratios": {
            "list_by_bare_row": _ratio(taken, "list", "bare_row"),
            "list_by_bare_list": _ratio(taken, "list", "bare_list"),
            "304_by_bare_jwt_redis": _ratio(taken, "list_304", "bare_jwt_redis"),
        },
    }


def _median(samples: list[Sample], field: str) -> float:
    return float(statistics.median(getattr(sample, field) for sample in samples))


def _ratio(taken: Mapping[str, list[Sample]], ours: str, bare: str) -> dict[str, float]:
    """Of rates: the median of the rounds' own ratios, and that of the best runs; of CPU: bare by ours."""
    rounds = [a.rate / b.rate for a, b in zip(taken[ours], taken[bare], strict=True)]
    best = max(s.rate for s in taken[ours]) / max(s.rate for s in taken[bare])
    cpu = _median(taken[bare], "cpu_us") / _median(taken[ours], "cpu_us")
    return {
        "median_of_rounds": round(statistics.median(rounds), 2),
        "of_best": round(best, 2),
        "of_cpu": round(cpu, 2),
    }
