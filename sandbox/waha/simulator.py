"""One simulated WAHA container: its sessions, their locks, its store and its webhooks.

Knows nothing of HTTP. Operations that take time are generators for `Timers.spawn`.
"""

from __future__ import annotations

import os
import re
import time

from sandbox.waha.faults import Failures, Faults
from sandbox.waha.locks import SessionLocks
from sandbox.waha.refusals import AlreadyExists, EngineError, LockTimeout, NotFound, Unprocessable, WrongState
from sandbox.waha.session import STOPPED, RunningSession
from sandbox.waha.settings import VERSION
from sandbox.waha.store import SessionStore
from sandbox.waha.uplink import Uplink
from sandbox.waha.views import detailed_info, session_info
from sandbox.waha.webhooks import Outbox, hooks_of, new_event_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox.waha.journal_file import JournalFile
    from sandbox.waha.log import Log
    from sandbox.waha.settings import SimulatorSettings
    from sandbox.waha.timers import Steps, Timers
    from sandbox.waha.uplink import Dial
    from sandbox.waha.webhooks import Poster

NAME_PATTERN = re.compile(r"[a-zA-Z0-9_-]*\Z")
NAME_LIMIT = 54

# How long the QR call waits, in seconds: for the session to run, then for the wanted status.
RUNNING_WAIT = 5.0
STATUS_WAIT = 10.0


class WahaSimulator:
    """The state of one container; `boot` restores its sessions, `shutdown` ends it gracefully."""

    def __init__(
        self,
        settings: SimulatorSettings,
        timers: Timers,
        journal: JournalFile,
        poster: Poster,
        log: Log,
        dial: Dial,
        *,
        faults: dict[str, Faults] | None = None,
    ) -> None:
        """`dial` opens a tunnel through a session's proxy."""
        self.settings = settings
        self.timers = timers
        self.store = SessionStore(settings.store_dir, settings.namespace, settings.session_namespace)
        self.journal = journal
        self.outbox = Outbox(timers, poster, log)
        self.log = log
        self._dial = dial
        self.started_at = time.time()
        self.faults = faults or {}
        self.failures = Failures()
        self.healthy = True
        self._running: dict[str, RunningSession] = {}
        self._locks = SessionLocks(timers)

    # Reading

    def list_sessions(self, *, all_sessions: bool) -> list[dict[str, Any]]:
        """Running sessions (FAILED too); with `all_sessions` every stored one."""
        records = (self.store.load(name) for name in self.store.names())
        return [
            self._info(record)
            for record in records
            if record is not None and (all_sessions or record["name"] in self._running)
        ]

    def session(self, name: str) -> dict[str, Any]:
        """One session with its engine. Raises `NotFound`."""
        return self._detailed(self._record(name))

    def me(self, name: str) -> dict[str, str] | None:
        """Raises `NotFound` for a session that does not run, known or not (WAHA 2026.7.1 code path)."""
        if name not in self._running:
            raise NotFound(f"session {name} does not run")
        me: dict[str, str] | None = self._record(name)["me"]
        return me

    def set_faults(self, name: str, faults: Faults) -> None:
        """What goes wrong for this session ("*" = for every one without faults of its own) from now on,
        until this container ends."""
        self.faults[name] = faults
        for session in self._running.values():
            session.faults = self._faults_of(session.name)

    def find_running(self, name: str) -> RunningSession | None:
        return self._running.get(name)

    def await_status(self, name: str, *wanted: str) -> Steps:
        """Waits as WAHA's QR and messaging calls do; returns the session or raises `WrongState`."""
        waited = 0.0
        while name not in self._running:
            if waited >= RUNNING_WAIT:
                raise WrongState(name, STOPPED if self.store.load(name) else None, wanted)
            yield self.settings.poll_interval
            waited += self.settings.poll_interval
        waited = 0.0
        while True:
            session = self._running.get(name)
            if session is not None and session.status in wanted and session.is_ready:
                return session
            if waited >= STATUS_WAIT:
                raise WrongState(name, session.status if session else STOPPED, wanted)
            yield self.settings.poll_interval
            waited += self.settings.poll_interval

    def watch_rivals(self) -> Steps:
        """Sessions learn that another container connected with their device; never ends."""
        # Of real time: a faster clock must not make an idle container busy.
        pause = min(0.5 * self.settings.clock_speed, max(0.5, 0.1 * self.settings.clock_speed))
        while True:
            yield pause
            for session in tuple(self._running.values()):
                session.look_for_rival()

    # Changing: each holds the session's lock

    def create(
        self, name: str | None, config: dict[str, Any] | None, apps: list[Any] | None, *, start: bool
    ) -> Steps:
        """Raises `AlreadyExists`. The name must be valid already."""
        name = name or f"session_{os.urandom(16).hex()}"
        return self._locks.run(name, self._create(name, config, apps, start))

    def update(self, name: str, config: dict[str, Any], apps: list[Any] | None) -> Steps:
        """Replaces the whole config; a running session stops and starts. Raises `NotFound`."""
        return self._locks.run(name, self._update(name, config, apps))

    def start(self, name: str) -> Steps:
        """No-op for a running session, FAILED included; assigns this worker. Raises `NotFound`."""
        return self._locks.run(name, self._start_known(name))

    def start_upsert(self, name: str, config: dict[str, Any] | None) -> Steps:
        """The deprecated start: creates, and raises `Unprocessable` when it runs already."""
        return self._locks.run(name, self._upsert_and_start(name, config))

    def stop(self, name: str) -> Steps:
        """Stops and takes the worker's assignment away; returns None for an unknown session."""
        return self._locks.run(name, self._stop_and_release(name))

    def restart(self, name: str) -> Steps:
        """Raises `NotFound`."""
        return self._locks.run(name, self._restart(name))

    def logout(self, name: str) -> Steps:
        """Wipes credentials, keeps the config; a running one starts again. Raises `NotFound`."""
        return self._locks.run(name, self._logout(name))

    def delete(self, name: str) -> Steps:
        """Removes everything of the session; unknown names are fine."""
        return self._locks.run(name, self._delete(name))

    # Life of the container

    def boot(self) -> Steps:
        """Starts the sessions assigned to this worker, one after another, a second after the port opened."""
        yield self.settings.restore_delay
        restores = [(name, self._restore(name)) for name in self.store.names()]
        extra = [
            (name, self._upsert_and_start(name, None, fail_if_running=False))
            for name in self.settings.start_sessions
        ]
        for name, steps in restores + extra:
            try:
                started = yield from self._locks.run(name, steps)
            except EngineError as error:
                self.log.emit("restore_failed", session=name, problem=str(error))
                continue
            except LockTimeout:
                # WAHA up to 2026.7.1: one slow session ends the loop and the rest stays STOPPED.
                self.log.emit("restore_aborted", session=name)
                return
            if started:
                yield self.settings.restore_pause

    def shutdown(self) -> Steps:
        """Stops all sessions at once and keeps their assignment, so that the next boot restores them."""
        stops = [self.timers.spawn(self._stop(name)) for name in sorted(self._running)]
        for stop in stops:
            yield (stop, None)

    def abandon(self) -> None:
        """Forgets everything without a word, as a kill does. The journal gets no end."""
        self.outbox.drop_all()
        for session in self._running.values():
            session.abandon()
        self._running.clear()

    def uptime_ms(self) -> int:
        return int((time.time() - self.started_at) * 1000)

    def environment(self) -> dict[str, Any]:
        engine = self.settings.engine
        browser = "/usr/bin/chromium" if engine in ("WEBJS", "WPP") else "none"
        return {
            "version": VERSION,
            "engine": engine,
            "tier": "CORE",
            "browser": browser,
            "platform": "linux/x64",
            "worker": {"id": self.settings.worker_id},
        }

    def emit(self, session: str, event: str, payload: dict[str, Any]) -> None:
        """Sends one webhook event to the container's hooks and the session's own."""
        record = self.store.load(session) or {}
        config = record.get("config") or {}
        envelope = {
            "id": new_event_id(),
            "timestamp": int(time.time() * 1000),
            "event": event,
            "session": session,
            "metadata": config.get("metadata") or {},
            "me": record.get("me"),
            "payload": payload,
            "engine": self.settings.engine,
            "environment": self.environment(),
        }
        self.outbox.send((*self.settings.hooks, *hooks_of(config)), envelope)

    # Inner steps; the session's lock is held

    def _create(self, name: str, config: dict[str, Any] | None, apps: list[Any] | None, start: bool) -> Steps:
        if self.store.load(name) is not None:
            raise AlreadyExists(f"session {name} exists already; update it instead")
        record = {"name": name, "config": config, "apps": apps, "me": None, "worker": None}
        self.store.save(record)
        if start:
            yield from self._start(name)
        return self._detailed(self._record(name))

    def _update(self, name: str, config: dict[str, Any], apps: list[Any] | None) -> Steps:
        record = self._record(name)
        record["config"] = config
        if apps is not None:
            record["apps"] = apps
        self.store.save(record)
        if name in self._running:
            yield from self._stop(name)
            yield from self._start(name)
        return self._detailed(self._record(name))

    def _start_known(self, name: str) -> Steps:
        self._record(name)
        yield from self._start(name)
        return self._detailed(self._record(name))

    def _upsert_and_start(
        self, name: str, config: dict[str, Any] | None, *, fail_if_running: bool = True
    ) -> Steps:
        if fail_if_running and name in self._running:
            raise Unprocessable(f"session {name} runs already")
        record = self.store.load(name) or {
            "name": name,
            "config": None,
            "apps": None,
            "me": None,
            "worker": None,
        }
        if config is not None:
            record["config"] = config
        self.store.save(record)
        yield from self._start(name)
        return self._detailed(self._record(name))

    def _restore(self, name: str) -> Steps:
        # Looked up under the lock: meanwhile a call may have stopped or deleted the session.
        record = self.store.load(name)
        mine = record is not None and record["worker"] == self.settings.worker_id
        if record is None or not (self.settings.restore_all or (self.settings.restore_sessions and mine)):
            return None
        yield from self._start(name)
        return self._detailed(record)

    def _start(self, name: str) -> Steps:
        self.store.assign(name, self.settings.worker_id)
        if name in self._running:
            return
        faults = self._faults_of(name)
        proxy = (self._record(name)["config"] or {}).get("proxy")
        session = RunningSession(
            name,
            settings=self.settings,
            timers=self.timers,
            store=self.store,
            journal=self.journal,
            on_status=self._on_status,
            faults=faults,
            uplink=lambda lost: Uplink(
                name,
                proxy,
                timers=self.timers,
                dial=self._dial,
                journal=self.journal,
                log=self.log,
                lost=lost,
            ),
        )
        self._running[name] = session
        session.start()
        if faults.hang_seconds:
            yield faults.hang_seconds

    def _stop(self, name: str) -> Steps:
        session = self._running.get(name)
        if session is None:
            return
        if wait := session.stop_wait + session.faults.stop_seconds:
            yield wait
            if self._running.get(name) is not session:
                return  # a graceful end stops without the lock, so somebody else may have been faster
        del self._running[name]
        session.stop()
        yield self.settings.stop_delay

    def _stop_and_release(self, name: str) -> Steps:
        yield from self._stop(name)
        record = self.store.load(name)
        if record is None:
            return None
        self.store.assign(name, None)
        return self._detailed(self._record(name))

    def _restart(self, name: str) -> Steps:
        self._record(name)
        yield from self._stop(name)
        yield from self._start(name)
        return self._detailed(self._record(name))

    def _logout(self, name: str) -> Steps:
        self._record(name)
        was_running = name in self._running
        if was_running:
            yield self.settings.unpair_delay
        yield from self._stop(name)
        self.store.wipe_auth(name)
        self.store.save_me(name, None)
        if was_running:
            yield from self._start(name)
        return self._detailed(self._record(name))

    def _delete(self, name: str) -> Steps:
        if self.store.load(name) is None:
            return
        if name in self._running:
            yield self.settings.unpair_delay
        yield from self._stop(name)
        self.store.wipe_auth(name)
        self.store.remove(name)
        self.faults.pop(name, None)

    def _faults_of(self, name: str) -> Faults:
        faults = self.faults.get(name) or self.faults.get("*")
        if faults is None:
            stored = self.store.faults(name)
            faults = Faults(**stored) if stored else Faults()
        return faults

    def _record(self, name: str) -> dict[str, Any]:
        record = self.store.load(name)
        if record is None:
            raise NotFound(f"session {name} does not exist")
        return record

    def _info(self, record: dict[str, Any]) -> dict[str, Any]:
        return session_info(record, self._running.get(record["name"]))

    def _detailed(self, record: dict[str, Any]) -> dict[str, Any]:
        return detailed_info(record, self._running.get(record["name"]), self.settings.engine)

    def _on_status(self, session: RunningSession, data: dict[str, Any] | None) -> None:
        self.log.emit("session_status", session=session.name, status=session.status)
        self.emit(
            session.name,
            "session.status",
            {
                "name": session.name,
                "status": session.status,
                "statuses": session.statuses,
                "data": data,
            },
        )
