"""What hosts, operators and images do to the pure world behind everybody's back."""

from __future__ import annotations

from datetime import datetime, timedelta

from core.domain import actions as act
from core.domain.facts import ClientStatus, WahaStatus
from tests.world_rows import DEAD, Allocation, Job, Session


class Accidents:
    """Part of `tests.world.World`, which has all that is named here."""

    now: datetime
    jobs: dict[str, Job]
    allocations: list[Allocation]
    sessions: dict[str, dict[str, Session]]
    down: set[str]
    draining: set[str]
    index: int

    def apply(self, user: str, action: act.Action) -> None:
        raise NotImplementedError

    def _end(self, a: Allocation) -> None:
        raise NotImplementedError

    def _stop_allocations(self, user: str) -> None:
        raise NotImplementedError

    def fail(self, a: Allocation) -> None:
        if a.client is ClientStatus.RUNNING and a.host not in self.down:
            a.client, a.modified = ClientStatus.FAILED, self.now
            self._end(a)

    def lose(self, host: str) -> None:
        """A host falls silent; its containers stop themselves after S and their kill timeout, unseen."""
        self.down.add(host)
        for a in self.allocations:
            if a.host == host and a.client not in DEAD:
                if a.really_runs:
                    a.dies_at = self.now + timedelta(seconds=105)
                a.client, a.desired, a.modified, a.passing = ClientStatus.LOST, "stop", self.now, False

    def silence(self, host: str) -> None:
        """As `lose`, under a job that lets Nomad keep what it lost sight of: `unknown`, never replaced."""
        self.down.add(host)
        for a in self.allocations:
            if a.host == host and a.client is ClientStatus.RUNNING:
                a.dies_at = self.now + timedelta(seconds=105)
                a.client, a.modified, a.passing = ClientStatus.UNKNOWN, self.now, False

    def restore(self, host: str) -> None:
        self.down.discard(host)
        for a in self.allocations:
            if a.host == host and a.client is ClientStatus.UNKNOWN:
                a.client = ClientStatus.RUNNING if a.really_runs else ClientStatus.COMPLETE
                a.modified, a.dies_at = self.now, None

    def drain(self, host: str) -> None:
        self.draining.add(host)
        for a in self.allocations:
            if a.host == host and a.client in (ClientStatus.RUNNING, ClientStatus.PENDING):
                a.desired = "stop"

    def edit_job(self, user: str) -> None:
        """Somebody registers something else under the user's job by hand; its allocation is replaced."""
        job = self.jobs.get(user)
        if job is not None and not job.stopped:
            self.index += 1
            job.modify_index = self.index
            self._stop_allocations(user)

    def stop_job(self, user: str) -> None:
        if user in self.jobs:
            self.apply(user, act.StopJob())

    def kill_container(self, user: str) -> None:
        """Removed behind Nomad: its client starts it again in place, with every session down."""
        for a in self.allocations:
            if (
                a.user == user
                and a.client is ClientStatus.RUNNING
                and a.really_runs
                and a.host not in self.down
            ):
                a.passing = False
                for session in self.sessions.get(user, {}).values():
                    session.status = WahaStatus.STOPPED

    def refuse_key(self, user: str) -> None:
        for a in self.allocations:
            if a.user == user and a.client is ClientStatus.RUNNING:
                a.refuses_key = True
