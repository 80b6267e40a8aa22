"""A small pure world for the properties of `decide`: hosts, allocations, Consul, WAHA and phones.

It obeys the rules that the outside systems were measured to obey, holds no clock of its own and makes no
choice: tests drive it. Every list it keeps is in the order in which things happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import msgspec

from core.domain import actions as act
from core.domain import names
from core.domain.desired import (
    Consent,
    Desired,
    DesiredChip,
    DesiredContainer,
    Registered,
    Wanted,
)
from core.domain.egress_errors import EgressError
from core.domain.facts import (
    AllocationFact,
    ClientStatus,
    EvaluationFact,
    Fact,
    JobFact,
    Known,
    Missing,
    Observation,
    Peers,
    PlacementFailure,
    Probe,
    ServiceInstance,
    SessionFact,
    Unknown,
    WahaStatus,
)
from core.domain.policy import Policy
from core.domain.ports import Holding, HostPorts, Ledger, Taken, record
from core.domain.seat import Seat, SeatState
from tests.world_accidents import Accidents
from tests.world_egress import WayOut
from tests.world_rows import DEAD, POLICY, SPEC, START, STOP_S, Allocation, Job, Session


@dataclass
class World(Accidents, WayOut):
    """All outside systems together with the store's rows."""

    hosts: dict[str, HostPorts]
    now: datetime = START
    jobs: dict[str, Job] = field(default_factory=dict)
    allocations: list[Allocation] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    sessions: dict[str, dict[str, Session]] = field(default_factory=dict)
    storage: dict[str, set[str]] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    draining: set[str] = field(default_factory=set)
    blind: set[str] = field(default_factory=set)
    hung: set[str] = field(default_factory=set)  # users whose WAHA passes its check and answers nothing else
    stuck: set[str] = field(default_factory=set)  # users whose sessions never get past STARTING
    unready: set[str] = field(default_factory=set)  # users whose containers run and never pass their check
    asleep: bool = False  # Nomad takes jobs and evaluates none
    shared: set[str] = field(default_factory=set)  # users whose image stores nothing under their namespace
    unprobed: set[str] = field(default_factory=set)  # users whose sessions answer no live call
    peers: Fact[Peers] = field(default_factory=lambda: Known(Peers(), START))
    desired: dict[str, Desired] = field(default_factory=dict)
    statuses: dict[str, act.ContainerStatus] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=dict)
    current: dict[str, str] = field(default_factory=dict)
    seen: dict[str, Allocation] = field(default_factory=dict)
    most_running: dict[str, int] = field(default_factory=dict)
    index: int = 0
    policy: Policy = POLICY
    provider_gone: bool = False  # no label is to be had anywhere
    reading_fails: EgressError | None = None
    unrouted_starts: list[str] = field(default_factory=list)

    # --- what users do -------------------------------------------------------------------------------
    def add_chip(self, user: str, chip: str, *, max_chips: int = 10) -> None:
        entry = self.desired.get(user) or Desired(
            container=DesiredContainer(user, 1, wanted_hashes=SPEC, wanted_variables_hash="v1"),
            chips=(),
            max_chips=max_chips,
        )
        new = DesiredChip(chip, Wanted.CONNECTED, 1, intent_at=self.now, created_at=self.now)
        self.desired[user] = msgspec.structs.replace(entry, chips=(*entry.chips, new))

    def intend(self, user: str, chip: str, wanted: Wanted, *, fresh: bool = False) -> None:
        consent = Consent.NONE
        if wanted is Wanted.CONNECTED:
            consent = Consent.FRESH if fresh else Consent.PRESS
        self._edit(user, chip, wanted=wanted, intent_at=self.now, consent=consent, bump=True)

    def ban(self, user: str, chip: str, *, banned: bool = True) -> None:
        self._edit(user, chip, banned=banned)

    def release(self, user: str, chip: str) -> None:
        self._container(user, generation=self.desired[user].container.generation + 1)
        newest = max(c.generation for c in self.desired[user].chips)
        self._edit(user, chip, released_generation=max(newest, self.desired[user].container.generation) + 1)

    def _edit(self, user: str, chip: str, *, bump: bool = False, **changes: object) -> None:
        entry = self.desired[user]
        chips = tuple(
            msgspec.structs.replace(c, generation=c.generation + bump, **changes) if c.id == chip else c
            for c in entry.chips
        )
        self.desired[user] = msgspec.structs.replace(entry, chips=chips)

    # --- what is seen --------------------------------------------------------------------------------
    def observe(self, user: str) -> Observation:
        job = self.jobs.get(user)
        mine = [a for a in self.allocations if a.user == user and a.listed]
        nomad = "nomad" in self.blind
        unknown = Unknown("dependency_nomad")
        evaluation = (
            Known(
                EvaluationFact(
                    id="e",
                    status="complete",
                    triggered_by="job-register",
                    create_index=job.evaluation_index,
                    failure=PlacementFailure(1, 0, 1, {"network: dynamic port selection failed": 1})
                    if job.evaluation_failed
                    else None,
                ),
                self.now,
            )
            if job
            else Missing(self.now)
        )
        return Observation(
            job=unknown
            if nomad
            else Known(JobFact(job.modify_index, job.stopped, "running"), self.now)
            if job
            else Missing(self.now),
            allocations=unknown if nomad else Known(tuple(self._fact(a) for a in mine), self.now),
            evaluation=unknown if nomad else evaluation,
            instances=Unknown("dependency_consul")
            if "consul" in self.blind
            else Known(
                tuple(
                    ServiceInstance(f"_nomad-task-{a.id}", user, a.id, a.host, a.port, passing=a.passing)
                    for a in mine
                    if a.client is not ClientStatus.COMPLETE
                ),
                self.now,
            ),
            sessions=self._sessions_fact(user),
            storage=self._storage_fact(user),
            peers=self.peers,
            probes=self._probes(user),
        )

    def _storage_fact(self, user: str) -> Fact[tuple[str, ...]]:
        if "storage" in self.blind:
            return Unknown("dependency_storage")
        if user in self.shared:
            return Known((), self.now)
        return Known(tuple(sorted(self.storage.get(user, ()))), self.now)

    def _sessions_fact(self, user: str) -> Fact[Mapping[str, SessionFact]]:
        if "waha" in self.blind or not any(a.user == user and a.passing for a in self.allocations):
            return Unknown("dependency_waha")
        if user in self.hung:
            return Unknown("dependency_waha")
        if any(a.user == user and a.passing and a.refuses_key for a in self.allocations):
            return Unknown("waha_key_rejected")
        held = self.sessions.get(user, {})
        return Known(
            {
                n: SessionFact(
                    n,
                    s.status,
                    me=s.me,
                    activity_at=s.activity_at,
                    routed=self.routed(user, names.chip_of_session(n) or n, s),
                )
                for n, s in held.items()
            },
            self.now,
        )

    def _probes(self, user: str) -> dict[str, Fact[Probe]]:
        """Of all that work: a pass asks about fewer, and the rules look only at those."""
        held = self.sessions.get(user, {})
        if user in self.unprobed or not isinstance(self._sessions_fact(user), Known):
            return {}
        return {
            names.chip_of_session(name) or name: Known(Probe(s.status, not s.deaf, s.activity_at), self.now)
            for name, s in held.items()
            if s.status is WahaStatus.WORKING
        }

    def _fact(self, a: Allocation) -> AllocationFact:
        return AllocationFact(
            id=a.id,
            node_id=a.host,
            node_name=a.host,
            desired=a.desired,
            client=a.client,
            create_index=a.index,
            created_at=a.created,
            modified_at=a.modified,
            address=a.host,
            port=a.port,
            restarts=a.restarts,
        )

    # --- what actions do -----------------------------------------------------------------------------
    def apply(self, user: str, action: act.Action) -> None:
        container = self.desired[user].container
        match action:
            case act.WriteVariables(hash=value):
                self.variables[user] = value
                self._container(user, variables_hash=value)
            case act.RegisterJob(expected_index=expected, hashes=hashes):
                job = self.jobs.get(user)
                if (job.modify_index if job else 0) != expected:
                    return
                self.index += 1
                again = job is not None and not job.stopped
                self.jobs[user] = Job(
                    modify_index=self.index,
                    born=job.born if job is not None and again else self.index,
                    skip_wait=again and any(a.dies_at for a in self.allocations if a.user == user),
                )
                self._container(user, registered=Registered(hashes, self.index))
                if container.registered is not None and container.registered.hashes.restart != hashes.restart:
                    self._stop_allocations(user)
            case act.ReplaceAllocation(allocation_id=allocation_id, key_refused=key_refused):
                if key_refused:
                    self._container(user, key_renewed_for=allocation_id)
                self.replace(allocation_id)
            case act.RestartAllocation(allocation_id=allocation_id, generation=wish, restarts=restarts):
                self._container(user, restart_mark=restarts)
                self.restart(allocation_id)
                self._container(user, restarted_generation=wish, restart_mark=None)
            case act.AskSeat(release=release, restart_hash=hash_):
                # Whoever asks is admitted at once; how many may be is a rule of its own.
                runs = self.statuses[user].allocation_id if user in self.statuses else None
                seat = Seat(release, hash_, SeatState.MOVING, moved_from=runs)
                self._container(user, seat=seat)
            case act.LeaveSeat():
                self._container(user, seat=None)
            case act.SettleSeat(ok=ok):
                assert container.seat is not None
                state = SeatState.OK if ok else SeatState.FAILED
                self._container(user, seat=msgspec.structs.replace(container.seat, state=state))
            case act.EvaluateJob():
                if user in self.jobs:
                    self.jobs[user].forgotten = False
            case act.StopJob():
                if user not in self.jobs:
                    return
                self.index += 1
                self.jobs[user] = replace(self.jobs[user], stopped=True, modify_index=self.index)
                self._stop_allocations(user)
            case act.PurgeJob():
                self.purge(user)
                self._container(user, registered=None)
            case act.DeleteVariables():
                self.variables.pop(user, None)
                self._container(user, variables_hash=None)
            case act.DeleteStorage():
                self.storage.pop(user, None)
            case act.RemoveContainer():
                del self.desired[user]
                self.statuses.pop(user, None)
                self.current.pop(user, None)
            case act.RemoveChip(chip_id=chip):
                entry = self.desired[user]
                self.desired[user] = msgspec.structs.replace(
                    entry, chips=tuple(c for c in entry.chips if c.id != chip)
                )
            case (
                act.CreateSession()
                | act.StartSession()
                | act.RestartSession()
                | act.RewriteSession()
                | act.RouteSession()
                | act.LogoutSession()
                | act.StopSession()
                | act.DeleteSession()
            ):
                self._session_action(user, action)
            case act.AssignLabel() | act.ReadExit() | act.ReleaseLabel():
                self.label_action(user, action)

    def _session_action(self, user: str, action: act.ChipAction) -> None:
        held = self.sessions.setdefault(user, {})
        name = names.session_name(action.chip_id)
        session = held.get(name)
        match action:
            case act.CreateSession(start=start):
                if name not in held:
                    session = held[name] = Session()
                    self.write_proxy(user, action.chip_id, session)
                    if start:
                        self._start(session)
                self.storage.setdefault(user, set()).add(name)
            case act.StartSession() if session and session.status is WahaStatus.STOPPED:
                self._start(session)
            case act.RestartSession() if session:
                self._start(session)
            case act.RewriteSession() | act.RouteSession() if session:
                self.write_proxy(user, action.chip_id, session)
                if session.status is not WahaStatus.STOPPED:
                    self._start(session)
            case act.LogoutSession() if session:
                session.me, session.dead = None, False
                if session.status is not WahaStatus.STOPPED:
                    self._start(session)
            case act.StopSession() if session:
                session.status = WahaStatus.STOPPED
            case act.DeleteSession():
                held.pop(name, None)
                self.storage.get(user, set()).discard(name)
        if act.is_start(action):
            self.note_start(user, action)

    def apply_late(self, user: str, action: act.Action) -> None:
        """The outside half of an effect whose daemon has lost its lease: the store takes none of its records."""
        before, statuses, current = dict(self.desired), dict(self.statuses), dict(self.current)
        store = (act.RemoveContainer, act.RemoveChip, act.DeleteVariables, act.DeleteStorage)
        if user in self.desired and not isinstance(action, store):
            self.apply(user, action)
        self.desired, self.statuses, self.current = before, statuses, current

    def replace(self, allocation_id: str) -> None:
        """Nomad's "stop this allocation": another is placed at once and starts when this one is dead."""
        for a in self.allocations:
            if a.id == allocation_id and a.listed and a.client is ClientStatus.RUNNING:
                a.desired = "stop"

    def restart(self, allocation_id: str) -> None:
        """Nomad's "restart this allocation": its process ends and begins again in place."""
        for a in self.allocations:
            if a.id == allocation_id and a.listed and a.client is ClientStatus.RUNNING:
                a.restarts += 1
                self.kill_container(a.user)

    def ask_for_restart(self, user: str) -> None:
        entry = self.desired.get(user)
        running = [a for a in self.allocations if a.user == user and a.client is ClientStatus.RUNNING]
        if entry is not None and running:
            generation = entry.container.generation + 1
            self._container(
                user,
                generation=generation,
                restart_generation=generation,
                restart_allocation=running[-1].id,
            )

    def end_unnoticed(self, user: str) -> None:
        """A client that was cut off stops its container and is back before the servers notice."""
        for a in self.allocations:
            if a.user == user and a.client is ClientStatus.RUNNING and a.desired == "run":
                a.client, a.modified = ClientStatus.COMPLETE, self.now
                self._end(a)
                self.jobs[user].forgotten = True

    def purge(self, user: str) -> None:
        """The job goes with everything that lists its allocations; containers are killed behind that."""
        self.jobs.pop(user, None)
        self._stop_allocations(user)
        for a in self.allocations:
            if a.user == user:
                a.listed = False

    def running_sessions(self, user: str) -> int:
        return sum(s.status is not WahaStatus.STOPPED for s in self.sessions.get(user, {}).values())

    def _start(self, session: Session) -> None:
        session.status = WahaStatus.STARTING
        session.starts += 1

    def _stop_allocations(self, user: str) -> None:
        for a in self.allocations:
            if a.user == user and a.client not in DEAD:
                a.desired = "stop"

    def _container(self, user: str, **changes: object) -> None:
        entry = self.desired[user]
        container = msgspec.structs.replace(entry.container, **changes)
        self.desired[user] = msgspec.structs.replace(entry, container=container)

    # --- what the daemon writes ----------------------------------------------------------------------
    def write(self, user: str, decision: act.Decision) -> None:
        """The guarded write of a pass: placement, ledger, status. Rows that are gone are left alone."""
        if user not in self.desired:
            return
        status = decision.container
        dead = set(status.closed_allocations)
        placed = status.placed
        if placed is not None and placed.port is not None and placed.address is not None:
            claim = Holding(user, placed.allocation_id)
            outcome = record(self.ledger, placed.address, placed.port, claim, dead)
            if isinstance(outcome, Taken):
                holder = next((a for a in self.allocations if a.id == outcome.holder.allocation_id), None)
                if holder is None or not holder.listed or holder.client in DEAD:
                    dead.add(outcome.holder.allocation_id)
                    outcome = record(self.ledger, placed.address, placed.port, claim, dead)
            if isinstance(outcome, Taken):
                status = msgspec.structs.replace(status, endpoint=None, reason="port_conflict")
            else:
                self.ledger = outcome
            self.current[user] = placed.allocation_id
        before = self.desired[user].container
        moved = (before.phase, before.reason) != (status.phase, status.reason)
        self._container(
            user,
            phase=status.phase,
            reason=status.reason,
            empty_since=status.empty_since,
            isolated=before.isolated or status.isolated,
            key_renewed_for=None if status.key_accepted else before.key_renewed_for,
            restarted_generation=max(before.restarted_generation, status.restarted_generation or 0),
            restart_mark=None if status.restarted_generation is not None else before.restart_mark,
            since=self.now if moved else before.since,
            current_allocation=self.current.get(user),
        )
        self.statuses[user] = status
        for chip in self.desired[user].chips:
            new = decision.chips.get(chip.id)
            if new is None:
                continue
            same = (chip.phase, chip.reason) == (new.phase, new.reason)
            self._edit(
                user,
                chip.id,
                phase=new.phase,
                reason=new.reason,
                status=new.status,
                tries=new.tries,
                memory=new.memory,
                last_activity_at=new.activity_at or chip.last_activity_at,
                unlinked_generation=new.unlinked_generation,
                since=chip.since if same else self.now,
                connected_at=self.now if new.connected_now and _anew(chip) else chip.connected_at,
            )

    # --- what happens by itself ----------------------------------------------------------------------
    def tick(self, seconds: float = 2.0) -> None:
        """Time passes; Nomad places, clients start and stop tasks, sessions come up."""
        self.now += timedelta(seconds=seconds)
        if not self.asleep:
            for user, job in self.jobs.items():
                self._place(user, job)
        for a in self.allocations:
            self._advance(a)

    def _place(self, user: str, job: Job) -> None:
        alive = [
            a
            for a in self.allocations
            if a.user == user
            and a.listed
            and a.desired == "run"
            and a.client not in DEAD
            and a.client is not ClientStatus.LOST
        ]
        waits = not job.skip_wait and any(
            a.user == user and a.index > job.born and a.dies_at is not None and self.now < a.dies_at
            for a in self.allocations
        )
        if job.stopped or job.forgotten or alive or waits:
            return
        for host in self.hosts.values():
            if host.address in self.down or host.address in self.draining:
                continue
            taken = {
                a.port
                for a in self.allocations
                if a.host == host.address and a.listed and a.client not in DEAD
            }
            free = [p for p in range(host.first, host.last + 1) if host.allows(p) and p not in taken]
            if free:
                self.index += 1
                allocation = Allocation(
                    f"a{self.index}",
                    user,
                    host.address,
                    free[0],
                    self.index,
                    self.now,
                    modified=self.now,
                    born=job.born,
                    waits=not (job.skip_wait and any(a.dies_at for a in self.allocations if a.user == user)),
                )
                job.skip_wait = False
                self.allocations.append(allocation)
                job.evaluation_failed, job.evaluation_index = False, self.index
                return
        if not job.evaluation_failed:
            self.index += 1
            job.evaluation_failed, job.evaluation_index = True, self.index

    def _advance(self, a: Allocation) -> None:
        if a.dies_at is not None and self.now >= a.dies_at:
            self._end(a)
        if a.host in self.down:
            return
        before = a.client
        if a.desired == "stop" and a.client not in DEAD:
            # A container takes its time to stop, and keeps running meanwhile.
            if a.stops_at is None:
                a.stops_at = self.now + timedelta(seconds=STOP_S if a.really_runs else 0)
            if self.now >= a.stops_at:
                a.client = ClientStatus.COMPLETE
                self._end(a)
        elif a.client is ClientStatus.PENDING:
            # Nomad waits for the predecessor of a placement within one incarnation of the job. It does not
            # when that one's host is lost meanwhile: a race beyond what any job specification can prevent
            # (the egress lease covers it). It is left out here, so that what runs twice does so by our act:
            # a register after a stop, or an extra evaluation while something is cut off.
            older = (o for o in self.allocations if o.user == a.user and o.really_runs)
            if not a.waits or not any(o.born == a.born for o in older):
                a.client, a.really_runs = ClientStatus.RUNNING, True
                self.storage.setdefault(a.user, set()).add("main")
        elif a.client is ClientStatus.RUNNING:
            a.passing = a.user not in self.unready
            for session in self.sessions.get(a.user, {}).values():
                if session.status is WahaStatus.STARTING and a.user not in self.stuck:
                    session.status = WahaStatus.WORKING if session.me else WahaStatus.SCAN_QR_CODE
                    if session.dead or not self.is_taken(a.user, session):
                        session.status = WahaStatus.FAILED
                    session.activity_at, session.deaf = self.now, False
                elif session.status is WahaStatus.WORKING and not session.deaf and not session.quiet:
                    session.activity_at = self.now
        if a.client is not before:
            a.modified = self.now

    def _end(self, a: Allocation) -> None:
        a.passing, a.really_runs, a.dies_at = False, False, None
        if not any(o.really_runs for o in self.allocations if o.user == a.user):
            for session in self.sessions.get(a.user, {}).values():
                session.status = WahaStatus.STOPPED

    def scan(self, user: str, chip: str) -> None:
        session = self.sessions.get(user, {}).get(names.session_name(chip))
        if session and session.status is WahaStatus.SCAN_QR_CODE:
            session.status, session.me = WahaStatus.WORKING, "5511999999999@c.us"
            session.activity_at = self.now

    def expire_qr(self, user: str, chip: str) -> None:
        session = self.sessions.get(user, {}).get(names.session_name(chip))
        if session and session.status is WahaStatus.SCAN_QR_CODE:
            session.status = WahaStatus.FAILED


def _anew(chip: DesiredChip) -> bool:
    """A connection that was not seen before, or not in this generation; see core/domain/observed.py."""
    return chip.phase != "connected" or chip.connected_at is None or chip.tries.generation != chip.generation
