"""`wahafleet up` itself: what is checked first, what is printed, how it ends."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sandbox.postgres import refuse_closed_parents
from sandbox.up import context
from sandbox.up.data import DataFolder
from sandbox.up.environment import mark, owner_file
from sandbox.up.first_user import EMAIL, PASSWORD
from sandbox.up.follow import Follower
from sandbox.up.local_provider import HOST
from sandbox.up.machine import check_hosts, check_port, find_program, process_started
from sandbox.up.plan import Egress, Kind, Options, Plan, Program, make_plan
from sandbox.up.reaper import Reaper, sweep
from sandbox.up.screen import Screen
from sandbox.up.stack import Site, Stack
from sandbox.up.supervisor import Supervisor

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(options: Options, *, host: str, port: int, data: Path, echo: Callable[[str], None]) -> None:
    """Start everything, keep it running until SIGINT, SIGTERM or SIGHUP, then end everything.

    Raises SandboxError, PostgresError or ValkeyError when something cannot start; nothing of it runs then.
    """
    began = time.monotonic()
    nomad = None if options.nomad is Kind.DOUBLE else find_program("nomad")
    consul = None if options.consul is Kind.DOUBLE else find_program("consul")
    plan = make_plan(options, nomad, consul)
    check_hosts(plan.hosts)
    reached = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    site = Site(host=host, port=port, url=f"http://{f'[{reached}]' if ':' in reached else reached}:{port}")
    # Before anything is made in there; PostgreSQL itself would say so only when half of the rest runs.
    refuse_closed_parents(data.absolute() / "postgres")
    # Whoever comes second on a folder should hear that, and not that the first one's port is busy.
    folder = DataFolder.open(data, api=site.url)
    screen = Screen(echo)
    try:
        check_port(host, port)
        for note in plan.notes:
            screen.say("up", note)
        for record in folder.end_leftovers():
            screen.say("up", f"ended {record.name} (process {record.pid}) of an earlier run")
        if swept := sweep(mark(folder.path)):
            screen.say("up", f"ended {swept} task(s) of an earlier run")
        asyncio.run(_Up(plan, site, folder, screen, began).run())
    finally:
        folder.close()


class _Up:
    def __init__(self, plan: Plan, site: Site, folder: DataFolder, screen: Screen, began: float) -> None:
        self._plan = plan
        self._site = site
        self._folder = folder
        self._screen = screen
        self._began = began
        self._supervisor = Supervisor(folder, screen.say)
        self._stack = Stack(plan, site, folder, self._supervisor)
        self._asked = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        written: Path | None = None
        reaper = Reaper(mark(self._folder.path)) if self._plan.nomad else None
        followers = [Follower(name, self._folder.log(name), self._screen.say) for name in ("api", "daemon")]
        following: list[asyncio.Task[None]] = []
        starting = asyncio.create_task(self._stack.start())
        asking = asyncio.create_task(self._asked.wait())
        asked_first = False
        try:
            self._screen.say("up", f"starting on {self._folder.path}")
            await asyncio.wait([starting, asking], return_when=asyncio.FIRST_COMPLETED)
            asked_first = self._asked.is_set()
            if not asked_first:
                starting.result()
                written = self._write_context()
                self._show()
                following = [asyncio.create_task(follower.run()) for follower in followers]
                await asking
        finally:
            for task in (asking, starting, *following):
                task.cancel()
            await asyncio.wait([asking, starting, *following])
            if asked_first and not starting.cancelled():
                starting.exception()  # Whoever ends it no longer asks why it could not start.
            if written is not None:
                written.unlink(missing_ok=True)
            await self._supervisor.stop()
            if reaper is not None:
                await asyncio.to_thread(reaper.close)
            owner_file(self._folder.path).unlink(missing_ok=True)
        self._screen.say("up", f"ended; everything is kept in {self._folder.path}")

    def _on_signal(self, number: signal.Signals) -> None:
        if self._asked.is_set():
            self._screen.say("up", "still ending; whatever needs more than a second is cut off now")
            self._supervisor.hurry()
        else:
            self._screen.say("up", f"{number.name}: ending everything")
            self._asked.set()

    def _write_context(self) -> Path:
        return context.write(
            context.Context(
                api=self._site.url,
                data=str(self._folder.path),
                operator_token=self._folder.secrets()["WAHAFLEET_OPERATOR_TOKEN"],
                pid=os.getpid(),
                pid_started=process_started(os.getpid()) or "",
                started_at=datetime.now(UTC).isoformat(),
            )
        )

    def _show(self) -> None:
        screen, url = self._screen, self._site.url
        pid = self._supervisor.pid
        screen.line()
        screen.table(
            [
                ("part", "where", "what", "process"),
                ("api", url, "wahafleet api", str(pid("api"))),
                (
                    "daemon",
                    f"http://{self._stack.daemon_listen}/ready",
                    "wahafleet daemon",
                    str(pid("daemon")),
                ),
                (
                    "nomad",
                    self._stack.nomad_url,
                    _kind("Nomad", self._plan.nomad, self._plan.hosts),
                    str(pid("nomad")),
                ),
                ("consul", self._stack.consul_url, _kind("Consul", self._plan.consul), str(pid("consul"))),
                (
                    "postgres",
                    str(self._folder.path / "postgres"),
                    "PostgreSQL, embedded",
                    str(pid("postgres")),
                ),
                ("valkey", self._stack.redis_url, "Valkey, embedded", str(pid("valkey"))),
                *self._egress(),
            ]
        )
        screen.line()
        screen.line(f"  log in with   {EMAIL} / {PASSWORD}   (plan Enterprise)")
        screen.line(f"  logs          {self._folder.path / 'logs'}")
        if self._plan.egress is Egress.GUARD:
            screen.line(f"  trouble       {self._stack.egress.knobs}/knobs turns the provider's")
        screen.line()
        screen.line("  Try next:")
        screen.line(f"    {_LOGIN.format(url=url, email=EMAIL, password=PASSWORD)}")
        screen.line(f"    {_CREATE.format(url=url)}")
        screen.line(f"    {_command()} phone scan demo")
        screen.line(f"    or open {url}/schema/docs: every route, with examples")
        screen.line()
        screen.say("up", f"ready after {time.monotonic() - self._began:.1f} s; Ctrl-C ends everything")

    def _egress(self) -> list[tuple[str, str, str, str]]:
        """The parts that chips leave through."""
        stack, pid = self._stack, self._supervisor.pid
        if self._plan.egress is Egress.DIRECT:
            return []
        guards = [
            (
                part.name,
                part.listens,
                "wahafleet egress" + ("" if number else ", one a host"),
                str(pid(part.name)),
            )
            for number, part in enumerate(stack.guards)
        ]
        at = f"socks5://{HOST}:{stack.egress.provider}"
        return [*guards, ("provider", at, "a provider, and the Internet behind it", str(pid("provider")))]


_LOGIN: Final = (
    "TOKEN=$(curl -s {url}/api/v1/auth/login -H 'Content-Type: application/json' "
    '-d \'{{"email":"{email}","password":"{password}"}}\' | python3 -c \'import json,sys; '
    'print(json.load(sys.stdin)["access_token"])\')'
)
_CREATE: Final = (
    "curl -s {url}/api/v1/chips -H \"Authorization: Bearer $TOKEN\" -H 'Content-Type: application/json' "
    '-d \'{{"alias":"demo"}}\''
)


def _command() -> str:
    """How the person at this terminal can call the command that runs here."""
    script = Path(sys.executable).with_name("wahafleet")
    found = shutil.which("wahafleet")
    if found is not None and Path(found).resolve() == script.resolve():
        return "wahafleet"
    near = os.path.relpath(script)
    return near if len(near) < len(str(script)) else str(script)


def _kind(name: str, program: Program | None, hosts: int = 0) -> str:
    what = f"{name} {program.version_text}" if program else f"double of {name}"
    return f"{what}, {hosts} host(s)" if hosts else what
