"""What must hold after every step, checked at the steps that could break it.

The checker sees the world as it really is. Where a daemon cannot know better (the world changed between its
look and its effect's arrival) nothing is held against it: each rule says from when on it could have known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from core.domain.actions import ContainerStatus
from core.domain.desired import Wanted
from core.domain.facts import ClientStatus
from core.domain.names import JOB_PREFIX, SESSION_PREFIX, database_name, job_id, main_database
from core.store.interface import Busy, Written
from daemon import fleet
from tests.memory_store.rows import LeaseRow
from tests.simulation.daemons import DRIFT, KNOWN, MISSING, SKEW_S, TROUBLE_S, UNKNOWN, Daemon
from tests.simulation.fleet_pauses import FleetPauses
from tests.simulation.label_checks import LabelChecks
from tests.simulation.moves import Moves
from tests.simulation.pacing import Starts
from tests.simulation.releases import FORGETS
from tests.simulation.servers import KILL_S, STOP_AFTER_S, Alloc
from tests.simulation.session_checks import SessionChecks
from tests.simulation.world import World, short

if TYPE_CHECKING:
    from tests.simulation.hosts import Container

_ENDED = (ClientStatus.COMPLETE, ClientStatus.FAILED)
# Architecture, section 6: S + kill timeout + margin; a daemon's wall clock may be off by the skew.
POSSIBLY_ALIVE_S = STOP_AFTER_S + KILL_S + 30.0
_DRIFTED_S = 7200.0 * DRIFT
_SURELY_S = POSSIBLY_ALIVE_S - SKEW_S - _DRIFTED_S - 1.0
_TOLERANCE_S = 0.1  # what drift adds up to within a lease
_PASS_S = 50.0  # a pass and everything it sends is over by then
_NOMAD_EFFECTS = frozenset(
    {"register", "stop", "purge", "evaluate", "stop_allocation", "restart_allocation"}
    | {"write_variables", "delete_variables"}
)
# Longer than any deadline of a phase, with the slack of a sweep and a pass.
_SILENT_S = 420.0
_CLAIMED_AGAIN_S = 75.0
_AT_REST = frozenset({"ready", "absent"})


class Checker:
    """Raises nothing: a broken rule ends the run through `World.violate`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.labels = LabelChecks(world)
        self.starts = Starts(world)
        self.sessions = SessionChecks(world, self.labels, self.starts)
        self.states: Counter[tuple[str, str]] = Counter()  # kind (container, chip, reason), and which
        self.refused: dict[tuple[str, str], float] = {}
        self.moves = Moves(world)
        self.endpoints: dict[str, tuple[str, int]] = {}
        self.places: dict[tuple[str, int], str] = {}
        self.pauses = FleetPauses(world)
        # Calls to the store that something is checked at, before and after them.
        self.before: dict[str, Callable[[Daemon, tuple[Any, ...]], None]] = {
            "remove_container": self._removing_container,
            "remove_chip": self._removing_chip,
        }
        self.after: dict[str, Callable[[Daemon, tuple[Any, ...], Any], None]] = {
            "apply_rollout": self._planned,
            "load": self._loaded,
            "assign_label": self.labels.assigned,
            "release_label": self.labels.released,
            "peers": self._told_of_peers,
            "claim": self._claimed,
            "take_starts": self._starts_taken,
            "write_status": self._status_written,
            "remove_container": self._container_removed,
        }

    # --- leases -----------------------------------------------------------------------------------------
    def sent(self, daemon: Daemon, user: str, effect: str, timeout_s: float) -> None:
        """An effect leaves: its lease must outlive it."""
        self.pauses.sent(daemon, user, effect)
        row = self._lease(daemon, user, effect)
        now = self.world.now
        if row is None or row.owner != daemon.name or row.expires_at + _TOLERANCE_S < now + timeout_s:
            left = "none" if row is None else f"{row.owner or 'nobody'} for {row.expires_at - now:.1f} s"
            self._fail(f"lease: {daemon.name} sends {effect} for user {short(user)}, lease of {left}")
        record = daemon.record(user)
        if record is None:
            return
        # Judged where it leaves: that Nomad's index refuses some of them excuses nobody.
        if effect in _NOMAD_EFFECTS:
            self._observed(daemon, user, effect, record)
        if now + timeout_s > record.began_at + _PASS_S + _TOLERANCE_S:
            self._fail(f"lease: {daemon.name} sends {effect} for user {short(user)} too late in its pass")

    def lands(self, daemon: Daemon, user: str, effect: str) -> None:
        """An effect is accepted: its lease must still be its sender's."""
        self.world.counts[f"effect.{effect}"] += 1
        row = self._lease(daemon, user, effect)
        if row is None or row.owner != daemon.name or row.expires_at + _TOLERANCE_S < self.world.now:
            self._fail(f"lease: {effect} of {daemon.name} for user {short(user)} accepted outside its lease")
        if daemon.is_janitor:
            self.world.counts["janitor.effects"] += 1
            self._janitor_acts(daemon, user, effect)

    def _lease(self, daemon: Daemon, user: str, effect: str) -> Any:
        """The user's lease; for storage that no user's name is on the janitor has that of the fleet."""
        row = self.world.store.leases.get(user)
        if daemon.is_janitor and effect == "drop_storage" and (row is None or row.owner != daemon.name):
            whole = self.world.store.leases.get(fleet.KEY)
            if whole is not None and f"{whole.owner}:janitor" == daemon.name:
                return LeaseRow(daemon.name, whole.token, whole.expires_at)
        return row

    def swept(self, daemon: Daemon) -> None:
        """Lists of everything are read by the holder of the fleet's lease alone."""
        if daemon.is_janitor:
            return
        row = self.world.store.leases.get(fleet.KEY)
        if row is None or row.owner != daemon.name or row.expires_at + _TOLERANCE_S < self.world.now:
            self._fail(f"lease: {daemon.name} sweeps without the lease of the fleet")

    # --- Nomad ------------------------------------------------------------------------------------------
    def register_lands(self, daemon: Daemon, job_id: str, spec: Any) -> None:
        user = job_id[len(JOB_PREFIX) :]
        self.lands(daemon, user, "register")
        record = daemon.record(user)
        if record is None:
            return
        self._observed(daemon, user, "register", record)
        servers, now = self.world.servers, self.world.now
        job = servers.jobs.get(job_id)
        fresh = job is None or job.stopped
        if not fresh:
            self.moves.registered(daemon, user, spec, record)
        if job is not None and not job.stopped and job.spec == spec:
            self.world.counts["registers_unchanged"] += 1
        for alloc in servers.allocs.get(job_id, ()):
            if alloc.client in _ENDED:
                continue
            if alloc.client is ClientStatus.LOST:
                lost = alloc.lost_at or 0.0
                if now - lost < _SURELY_S and lost <= record.allocations_at:
                    self._fail(
                        f"P4: {daemon.name} registers user {short(user)} {now - lost:.0f} s after allocation "
                        f"{alloc.create_index} was lost"
                    )
            elif fresh and alloc.created <= record.allocations_at:
                self._fail(
                    f"P4: {daemon.name} registers user {short(user)} anew beside allocation "
                    f"{alloc.create_index} ({alloc.client.value}/{alloc.desired})"
                )

    def stop_lands(self, daemon: Daemon, job_id: str) -> None:
        user = job_id[len(JOB_PREFIX) :]
        self.lands(daemon, user, "stop")
        record = daemon.record(user)
        if record is None:
            return
        self._observed(daemon, user, "stop", record)
        snapshot = record.snapshot
        if snapshot is not None and not snapshot.container.deleted:
            wanted = snapshot.container.pinned or any(c.wanted is not Wanted.DELETED for c in snapshot.chips)
            if wanted:
                self._fail(f"intent: {daemon.name} stops the wanted container of user {short(user)}")

    def purge_lands(self, daemon: Daemon, job_id: str) -> None:
        user = job_id[len(JOB_PREFIX) :]
        self.lands(daemon, user, "purge")
        record = daemon.record(user)
        if record is None:
            return
        self._observed(daemon, user, "purge", record)
        job = self.world.servers.jobs.get(job_id)
        if job is not None and not job.stopped and job.submitted < record.job_at:
            self._fail(f"P6: {daemon.name} purges the job of user {short(user)} that was not stopped")
        for alloc in self.world.servers.allocs.get(job_id, ()):
            if self._may_live(alloc, record.allocations_at):
                self._fail(
                    f"P5: {daemon.name} purges the job of user {short(user)} while allocation "
                    f"{alloc.create_index} may be alive"
                )

    def variables_go(self, daemon: Daemon, user: str) -> None:
        self.lands(daemon, user, "delete_variables")
        self._gone(daemon, user, "deletes the variables")

    def storage_goes(self, daemon: Daemon, user: str, namespace: str, database: str | None) -> None:
        self.lands(daemon, user, "drop_storage")
        if daemon.is_janitor:
            self._janitor_drops(daemon, user, namespace, database)
        else:
            self._gone(daemon, user, "drops the storage")

    def _janitor_drops(self, daemon: Daemon, user: str, namespace: str, database: str | None) -> None:
        row = next((r for r in self.world.store.containers.values() if r.namespace == namespace), None)
        if database is None:
            if row is not None:
                self._fail(f"janitor: {daemon.name} drops the storage of user {short(row.user_id)}")
            if any(c.alloc.lost_at is None for c in self.world.waha.containers_of(user)):
                self._fail(f"janitor: {daemon.name} drops storage {namespace} under a running container")
        elif row is not None:
            owned = {database_name(namespace, SESSION_PREFIX + chip.id) for chip in row.chips}
            if database in {main_database(namespace), *owned}:
                self._fail(f"janitor: {daemon.name} drops {database}, which a row explains")

    def _janitor_acts(self, daemon: Daemon, user: str, effect: str) -> None:
        """What a row explains is never an orphan. A session's chip is asked for where it is deleted."""
        if effect in ("stop", "purge", "delete_variables") and user in self.world.store.containers:
            self._fail(f"janitor: {daemon.name} does {effect} for user {short(user)}, whose row is there")

    def _gone(self, daemon: Daemon, user: str, does: str) -> None:
        record = daemon.record(user)
        if record is None:
            return
        if record.job != MISSING or record.allocations != KNOWN:
            self._fail(
                f"P5: {daemon.name} {does} of user {short(user)}; it saw job {record.job}, "
                f"allocations {record.allocations}"
            )
        for container in self.world.waha.containers_of(user):
            if container.alloc.lost_at is None and container.alloc.created <= record.allocations_at:
                self._fail(f"P6: {daemon.name} {does} of user {short(user)} under a running container")

    def _may_live(self, alloc: Alloc, read_at: float) -> bool:
        if alloc.client in _ENDED or alloc.created > read_at:
            return False
        if alloc.client is ClientStatus.LOST:
            lost = alloc.lost_at or 0.0
            return self.world.now - lost < _SURELY_S and lost <= read_at
        return True

    def _observed(self, daemon: Daemon, user: str, effect: str, record: Any) -> None:
        if UNKNOWN in (record.job, record.allocations):
            self._fail(
                f"P5: {daemon.name} does {effect} for user {short(user)}; it saw job {record.job}, "
                f"allocations {record.allocations}"
            )

    # --- containers and sessions ------------------------------------------------------------------------
    def container_started(self, container: Container) -> None:
        for other in self.world.waha.containers_of(container.user):
            if other is container or other.ended:
                continue
            if other.alloc.lost_at is not None:
                # Nomad's own replacement of what it gave up, which a frozen agent never stopped.
                self.world.counts["overlaps_with_lost"] += 1
            elif _lost_sight_of(container.alloc, other.alloc):
                # Nomad's own doing as well: a drain hit an update whose old allocation was still stopping.
                self.world.counts["overlaps_with_stopping"] += 1
            else:
                self._fail(
                    f"P4: two containers of user {short(container.user)} run: allocations "
                    f"{other.alloc.create_index} ({other.alloc.client.value}/{other.alloc.desired}) and "
                    f"{container.alloc.create_index}"
                )

    def waha_lands(self, daemon: Daemon, container: Container, method: str, args: tuple[Any, ...]) -> None:
        """WAHA accepts an effect on a session."""
        self.lands(daemon, container.user, f"waha.{method}")
        self.sessions.lands(daemon, container, method, args)

    def registered(self, daemon: Daemon, user: str) -> None:
        """Nomad took the daemon's register and placed what it could."""
        record = daemon.record(user)
        if record is None:
            return
        for alloc in self.world.servers.allocs.get(job_id(user), ()):
            if alloc.created == self.world.now and alloc.trigger == "job-register":
                alloc.registrar_looked_at = record.allocations_at

    # --- the store --------------------------------------------------------------------------------------
    def _removing_container(self, daemon: Daemon, args: tuple[Any, ...]) -> None:
        self._removal(daemon, args[0].key)

    def _removing_chip(self, daemon: Daemon, args: tuple[Any, ...]) -> None:
        row = self.world.store.containers.get(args[0].key)
        if row is None or row.generation <= args[2]:  # else the store refuses it
            self._chip_removal(daemon, args[0].key, args[1])

    def _planned(self, daemon: Daemon, args: tuple[Any, ...], result: Any) -> None:
        self.moves.admitted(args[1], result)

    def _loaded(self, daemon: Daemon, args: tuple[Any, ...], result: Any) -> None:
        record = daemon.record(args[0])
        if record is not None:
            record.snapshot = result

    def _told_of_peers(self, daemon: Daemon, args: tuple[Any, ...], result: Any) -> None:
        record = daemon.record(args[0])
        if record is not None:
            record.peers = result

    def _claimed(self, daemon: Daemon, args: tuple[Any, ...], result: Any) -> None:
        key = args[0]
        if key == fleet.KEY:
            return
        self.refused.pop((daemon.name, key), None)
        if isinstance(result, Busy):
            self.refused[daemon.name, key] = now = self.world.now
            self.world.loop.surely(_CLAIMED_AGAIN_S, self._claimed_again, daemon, key, now)

    def _starts_taken(self, daemon: Daemon, args: tuple[Any, ...], result: Any) -> None:
        if result is not None:
            self.starts.taken(args[1], result)

    def _status_written(self, daemon: Daemon, args: tuple[Any, ...], result: Any) -> None:
        if isinstance(result, Written):
            self._status(daemon, args[0].key, args[1], args[2])
            if (record := daemon.record(args[0].key)) is not None:
                self.sessions.looked_at[args[0].key] = record.sessions_at

    def _container_removed(self, daemon: Daemon, args: tuple[Any, ...], result: Any) -> None:
        if result:
            self._endpoint_of(args[0].key, None)

    def _claimed_again(self, daemon: Daemon, user: str, since: float) -> None:
        """A key that somebody else held is tried again, whatever anybody else finds meanwhile."""
        hindered = (
            daemon.process.dead
            or daemon.process.held is not None
            or daemon.troubled_at > since - TROUBLE_S
            or daemon not in self.world.daemons
            or daemon.cut_from
            or self.world.network.down
            # It failed meanwhile for everybody, and the key has its pause for that.
            or self.world.network.back_at.get("postgres", -1.0) > since
            or (daemon.stop is not None and daemon.stop.is_set())
        )
        if not hindered and self.refused.get((daemon.name, user)) == since:
            self._fail(f"queue: {daemon.name} dropped user {short(user)} when its claim was refused")

    def _status(self, daemon: Daemon, user: str, seen: ContainerStatus, chips: Any) -> None:
        states = self.states
        states["container", seen.phase] += 1
        if seen.reason is not None:
            states["reason", seen.reason] += 1
        for chip in chips.values():
            states["chip", chip.phase] += 1
        row = self.world.store.containers[user]
        self.world.trace.note("status", short(user), f"{daemon.name} {seen.phase} {seen.reason or ''}")
        self._endpoint(daemon, user, seen, row)
        self._ports_freed(daemon, user, seen)
        if seen.reason is None and seen.phase not in _AT_REST:
            silent = (self.world.moment() - row.observed.since).total_seconds()
            if silent > _SILENT_S:
                self._fail(
                    f"deadline: user {short(user)} is {seen.phase} for {silent:.0f} s and nobody says why"
                )

    def _ports_freed(self, daemon: Daemon, user: str, seen: ContainerStatus) -> None:
        """The pass that sees an allocation's end frees its port; nobody waits for the housekeeping."""
        record = daemon.record(user)
        if record is None or seen.blind:
            return
        for known in record.known:
            if known.client in _ENDED and (held := self.world.store.entry(known.id)) and held.is_open:
                self._fail(
                    f"ports: {daemon.name} saw the end of what user {short(user)} had on "
                    f"{held.address}:{held.port} booked"
                )

    def _endpoint(self, daemon: Daemon, user: str, seen: ContainerStatus, row: Any) -> None:
        endpoint = seen.endpoint
        self._endpoint_of(user, None if endpoint is None else (endpoint.address, endpoint.port))
        if endpoint is None:
            return
        where = f"{endpoint.address}:{endpoint.port} of user {short(user)}"
        host = next((h for h in self.world.hosts if h.address == endpoint.address), None)
        if host is None or endpoint.port not in host.ports:
            self._fail(f"ports: {where} lies outside its host's range")
        if row.current is None or row.current.allocation_id != endpoint.allocation_id:
            self._fail(f"ports: endpoint {where} is not of the current placement")
        record = daemon.record(user)
        known = record.known if record is not None else ()
        found = next((a for a in known if a.id == endpoint.allocation_id), None)
        if record is not None and (
            found is None
            or found.desired != "run"
            or found.client is not ClientStatus.RUNNING
            or (found.address, found.port) != (endpoint.address, endpoint.port)
        ):
            self._fail(f"ports: endpoint {where} is not where Nomad runs its allocation")

    def _endpoint_of(self, user: str, place: tuple[str, int] | None) -> None:
        before = self.endpoints.pop(user, None)
        if before is not None and self.places.get(before) == user:
            del self.places[before]
        if place is None:
            return
        other = self.places.get(place)
        row = None if other is None else self.world.store.containers.get(other)
        # The pass that gave the port on may have withdrawn the other's endpoint in its own transaction.
        shown = None if row is None else row.observed.endpoint
        if other is not None and other != user and shown is not None and (shown.address, shown.port) == place:
            self._fail(f"ports: users {short(other)} and {short(user)} both have endpoint {place}")
        self.endpoints[user], self.places[place] = place, user

    def _removal(self, daemon: Daemon, user: str) -> None:
        """Just before a container's row goes, nothing may be left that its row explains."""
        row = self.world.store.containers.get(user)
        lease = self.world.store.leases.get(user)
        if row is None or row.chips or row.pinned or lease is None or lease.owner != daemon.name:
            return
        world, job_id = self.world, JOB_PREFIX + user
        left = []
        if job_id in world.servers.jobs and not self._by_hand(job_id):
            left.append("a job")
        if f"nomad/jobs/{job_id}" in world.servers.variables:
            left.append("variables")
        if row.namespace in world.waha.databases:
            left.append("storage")
        alive = [c for c in world.waha.containers_of(user) if c.alloc.lost_at is None]
        if alive and not self._by_hand(job_id):
            left.append("a container")
        if left:
            self._fail(f"P6: {daemon.name} forgets user {short(user)} and leaves {' and '.join(left)}")

    def _chip_removal(self, daemon: Daemon, user: str, chip_id: str) -> None:
        row = self.world.store.containers.get(user)
        record = daemon.record(user)
        chip = self.world.store.chips.get(chip_id)
        if row is None or record is None or chip is None or chip.wanted is not Wanted.DELETED:
            return
        if any(c.image == FORGETS for c in self.world.waha.containers_of(user)):
            return  # nobody can see what that image does not; the janitor finds it after the next one came
        kept = self.world.waha.storage.get(row.namespace, {})
        goes = not any(c.wanted is not Wanted.DELETED for c in row.chips) and not row.pinned
        if SESSION_PREFIX + chip_id in kept and not goes:
            self._fail(f"P6: {daemon.name} forgets chip {short(chip_id)} while its session is stored")

    def _by_hand(self, job_id: str) -> bool:
        return job_id in self.world.servers.changed_by_hand

    def _fail(self, sentence: str) -> None:
        self.world.violate(sentence)


def _lost_sight_of(newest: Alloc, oldest: Alloc) -> bool:
    """Whether an allocation stood between the two that Nomad took back before it had run.

    Its successor waits for the end of that one alone, which is at once: the one before it may be stopping still.
    No excuse for a register of ours, which waits until the older ones have stopped, unless that one was placed
    after the look it rests on. A hand's waits for nothing.
    """
    between = newest.previous
    ours = newest.trigger == "job-register" and not newest.by_hand
    if ours and (between is None or between.created <= newest.registrar_looked_at):
        return False
    while between is not None and between is not oldest:
        if between.container is not None:
            return False
        between = between.previous
    return between is oldest and newest.previous is not oldest and oldest.desired == "stop"
