"""Many pages poll two API processes, while the daemon and simulated containers run."""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from collections import Counter
from contextlib import AbstractContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop
from cryptography.fernet import Fernet
from sqlalchemy.ext.asyncio import AsyncEngine

from api.tokens import Tokens
from bench import fleet
from bench.api_client import Page, poll
from bench.api_rates import SECRET, answers, process
from core import heap
from core.clock import SystemClock
from core.crypto import Sealer
from core.domain.actor import COMMAND_LINE
from core.settings import load
from core.store.engine import engine_for
from core.store.intents import create_chip
from core.store.migrate import upgrade
from core.store.users_admin import ensure_user
from core.variables import NO_LIMITS
from sandbox.free_ports import free_port
from sandbox.postgres import EmbeddedPostgres, scratch_folder
from sandbox.valkey import EmbeddedValkey

PROCESSES: Final = 2
SPREAD_S: Final = 60.0


async def _people(engine: AsyncEngine, sealer: Sealer, users: int, chips: int) -> dict[str, list[str]]:
    """User id -> the ids of the user's chips.

    Users come one after the other within a minute, as people do: made at once, all codes would change in the
    same moments, every twenty seconds.
    """
    made: dict[str, list[str]] = {}
    for number in range(users):
        await asyncio.sleep(SPREAD_S / users if number else 0)
        user = await ensure_user(
            engine,
            email=f"{uuid.uuid4().hex}@bench.example",
            password_hash="none",
            name="Bench",
            phone="+5511999999999",
            plan_slug="enterprise",
            actor=COMMAND_LINE,
        )
        made[user] = [str(uuid.uuid4()) for _ in range(chips)]
        for place, chip in enumerate(made[user]):
            await create_chip(
                engine,
                sealer,
                "main",
                user_id=user,
                chip_id=chip,
                alias=f"loja {place}",
                actor=COMMAND_LINE,
            )
    return made


def _api(port: int, env: dict[str, str], folder: Path) -> AbstractContextManager[int]:
    ready = partial(answers, f"http://127.0.0.1:{port}/health")
    return process(("cli.main", "api", "--port", str(port)), env, folder / f"api-{port}.log", ready)


def _daemon(env: dict[str, str], folder: Path) -> AbstractContextManager[int]:
    log = folder / "daemon.log"
    return process(("cli.main", "daemon"), env, log, lambda: b"daemon_started" in log.read_bytes())


async def _measure(users: int, chips: int, warm_up_s: float, seconds: float) -> dict[str, Any]:
    folder = scratch_folder()  # left in place when it fails: the logs are in it
    key = Fernet.generate_key().decode()
    async with AsyncExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres.start(folder / "postgres", durable=False))
        valkey = stack.enter_context(EmbeddedValkey.start(folder / "valkey"))
        url = postgres.ensure_database("bench")
        await asyncio.to_thread(upgrade, url)
        engine, sealer = engine_for(url, pool_size=5), Sealer((key,))
        stack.push_async_callback(engine.dispose)
        (folder / "doubles").mkdir()
        found = stack.enter_context(fleet.doubles(folder / "doubles", users, clock_speed=1.0))
        ports = [free_port() for _ in range(PROCESSES)]
        env = fleet.environment(found, url, key, folder / "doubles") | NO_LIMITS
        env |= {
            "WAHAFLEET_REDIS_URL": valkey.url(),
            "JWT_SECRET_KEY": SECRET,
            "WAHAFLEET_HOOK_BASE_URL": f"http://127.0.0.1:{ports[0]}",
        }
        pids = [stack.enter_context(_api(port, env, folder)) for port in ports]
        daemon = stack.enter_context(_daemon(env, folder))
        made = await _people(engine, sealer, users, chips)
        await fleet.until_all(engine, "qr", users * chips, 300)
        tokens = Tokens(load(env).api, SystemClock())
        pages = [
            Page(f"http://127.0.0.1:{ports[number % PROCESSES]}", token, chip)
            for user, owned in made.items()
            for token in [tokens.issue(user).access_token]
            for number, chip in enumerate(owned)
        ]
        found.counts()
        heap.settle()  # these pages are many browsers, and do not wait for each other's garbage either
        watched = {f"api {n + 1}": pid for n, pid in enumerate(pids)} | {
            "daemon": daemon,
            "doubles": found.pid,
            "pages": os.getpid(),
        }
        before = {name: fleet.cpu_s(pid) for name, pid in watched.items()}
        routes = await poll(pages, warm_up_s, seconds)
        used = {name: fleet.cpu_s(pid) - before[name] for name, pid in watched.items()}
        warnings = Counter(
            msgspec.json.decode(line).get("message", "")
            for log in folder.glob("api-*.log")
            for line in log.read_bytes().splitlines()
            if b'"level":"warning"' in line
        )
        codes = {name: n for name, n in found.counts().items() if name.startswith("code ")}
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "pages": len(pages),
        "users": users,
        "chips_a_user": chips,
        "seconds": seconds,
        "processes": PROCESSES,
        "routes": {name: route.summary() for name, route in routes.items()},
        "qr_answers_with_a_code": routes["qr"].with_qr,
        "codes_asked_for": len(codes),
        "most_requests_for_one_code": max(codes.values(), default=0),
        "codes_asked_for_again": sum(n > 1 for n in codes.values()),
        "warnings_of_the_api": dict(warnings),
        "cpu_percent": {name: round(100 * spent / (warm_up_s + seconds), 1) for name, spent in used.items()},
        "load_average": os.getloadavg()[0],
    }


def measure(users: int, chips: int, warm_up_s: float, seconds: float) -> dict[str, Any]:
    """`users` * `chips` pages, one for each chip, for `seconds` after `warm_up_s`."""
    return uvloop.run(_measure(users, chips, warm_up_s, seconds))
