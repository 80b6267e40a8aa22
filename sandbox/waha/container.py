"""One simulated container on a loop: its simulator, its port, its owner watch and its end."""

from __future__ import annotations

import os
import time

from sandbox.waha.faults import faults_from_json
from sandbox.waha.journal_file import BEAT_SECONDS, JournalFile
from sandbox.waha.log import Log
from sandbox.waha.poster import LoopPoster
from sandbox.waha.routes import Api
from sandbox.waha.server import Server
from sandbox.waha.settings import SimulatorSettings
from sandbox.waha.simulator import WahaSimulator
from sandbox.waha.timers import Timers, spawn_logged
from sandbox.waha.tunnel import Tunnels

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox.waha.loop import Loop

FLUSH_SECONDS = 2.0
_OWNER_CHECK_SECONDS = 1.0


class Container:
    """Serves from construction until `stop` (graceful) or `kill` (like SIGKILL); then `on_exit(code)`."""

    def __init__(self, loop: Loop, env: Mapping[str, str], on_exit: Callable[[int], None], log: Log) -> None:
        """Raises `InvalidSettings` (a ValueError) or OSError (port or folder cannot be used)."""
        settings = SimulatorSettings(env)
        faults = faults_from_json(env.get("WAHA_SIM_FAULTS", ""))
        self._loop = loop
        self._log = log
        self._settings = settings
        self._timers = Timers(speed=settings.clock_speed)
        self._on_exit = on_exit
        self._stopping = False
        self._exited = False
        self._journal = JournalFile(settings.store_dir, settings.session_namespace, settings.allocation)
        self._poster = LoopPoster(loop, self._timers)
        self._tunnels = Tunnels(loop, self._timers, settings.tunnel_interval)
        self.simulator = WahaSimulator(
            settings, self._timers, self._journal, self._poster, log, self._tunnels.open, faults=faults
        )
        api = Api(self.simulator, self._stop_requested)
        # WAHA opens its port last, when everything else is ready.
        self._server = Server(loop, settings.host, settings.port, api.handle, log)
        loop.add_timers(self._timers)
        self._timers.call_later_real(BEAT_SECONDS, self._beat)
        if settings.owner_pidfile is not None:
            self._owner = _Owner(settings.owner_pidfile)
            self._timers.call_later_real(_OWNER_CHECK_SECONDS, self._check_owner)
        spawn_logged(self._timers, self.simulator.boot(), log, "restore_failed")
        spawn_logged(self._timers, self.simulator.watch_rivals(), log, "rivals_failed")
        if settings.key_is_random:
            log.emit("weak_api_key", problem="WAHA_API_KEY is empty or weak; a random key is used instead")
        host, port = self._server.address
        log.emit(
            "listening",
            host=host,
            port=port,
            namespace=settings.namespace,
            worker=settings.worker_id,
            allocation=settings.allocation,
        )

    @property
    def address(self) -> tuple[str, int]:
        return self._server.address

    def stop(self) -> None:
        """SIGTERM: sessions stop and say so, what is on the wire gets a moment, then the end."""
        if self._stopping:
            return
        self._stopping = True
        spawn_logged(self._timers, self.simulator.shutdown(), self._log, "shutdown_failed", self._flush)

    def kill(self) -> None:
        """SIGKILL: connections break, nothing is written or sent any more."""
        self._exit(137)

    def _flush(self) -> None:
        self._server.close()
        self._wait_for_deliveries(time.monotonic() + FLUSH_SECONDS)

    def _wait_for_deliveries(self, deadline: float) -> None:
        if self.simulator.outbox.in_flight and time.monotonic() < deadline:
            self._timers.call_later_real(0.02, lambda: self._wait_for_deliveries(deadline))
        else:
            self._log.emit("stopped")
            self._exit(0)

    def _exit(self, code: int) -> None:
        if self._exited:
            return
        self._exited = True
        self.simulator.abandon()
        self._poster.close()
        self._tunnels.close()
        self._server.close()
        self._journal.close()
        self._loop.remove_timers(self._timers)
        self._on_exit(code)

    def _stop_requested(self, force: bool) -> None:
        if force:
            self.kill()
        else:
            self.stop()

    def _beat(self) -> None:
        self._journal.beat()
        self._timers.call_later_real(BEAT_SECONDS, self._beat)

    def _check_owner(self) -> None:
        gone = self._owner.gone_for()
        if gone > self._settings.owner_grace:
            self._log.emit("owner_gone", pidfile=self._settings.owner_pidfile, seconds=round(gone, 1))
            self.stop()
        else:
            self._timers.call_later_real(_OWNER_CHECK_SECONDS, self._check_owner)


class _Owner:
    """The process whose pid stands in a file. Its start time is remembered, so that another process that
    later gets the same pid is not taken for it; a new owner may write itself into the file."""

    def __init__(self, pidfile: str) -> None:
        self._pidfile = pidfile
        self._seen: tuple[int, str] | None = None
        self._last_seen = time.monotonic()

    def gone_for(self) -> float:
        """Real seconds since an owner was last seen alive; 0 when it lives."""
        now = time.monotonic()
        pid = self._read_pid()
        if pid is not None:
            started = _start_time(pid)
            if started is not None and (
                self._seen is None or self._seen[0] != pid or self._seen[1] == started
            ):
                self._seen = (pid, started)
                self._last_seen = now
        return now - self._last_seen

    def _read_pid(self) -> int | None:
        try:
            with open(self._pidfile, encoding="ascii") as file:
                words = file.read(64).split()
        except (OSError, UnicodeDecodeError):
            return None
        return int(words[0]) if words and words[0].isdigit() and int(words[0]) > 0 else None


def _start_time(pid: int) -> str | None:
    """When a living process began, in the kernel's ticks; None when it is gone (a zombie is gone too)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return None
        # No /proc on this system: at least ask whether the pid is taken.
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            return "unknown"
        return "unknown"
    return None if fields[0] in ("Z", "X") else fields[19]
