"""What the daemon counts. Labels take values from short fixed lists alone: never a user, never an address."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from core.domain.pacing import Turns
from core.domain.routes import Reading
from daemon.outcome import Result

_WAITS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0)


class Outcome(StrEnum):
    """How a pass ended."""

    AT_REST = "at_rest"
    ON_THE_WAY = "on_the_way"
    INCOMPLETE = "incomplete"  # something did not answer or an effect failed; it is tried again
    BUSY = "busy"  # another daemon works on the user
    ANSWERED = "answered"  # another daemon has looked since the news came
    DROPPED = "dropped"  # the lease was lost
    UNAVAILABLE = "unavailable"  # the store did not play along
    IMPOSSIBLE = "impossible"
    BROKE = "broke"


class Metrics:
    """One daemon's counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._passes = Counter("wahafleet_passes", "Passes by outcome.", ["outcome"], registry=self.registry)
        self._pass_seconds = Histogram(
            "wahafleet_pass_seconds",
            "How long passes take, claim and release included.",
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._effects = Counter(
            "wahafleet_effects",
            "Effects by kind and verdict.",
            ["kind", "verdict"],
            registry=self.registry,
        )
        self.leases_held = Gauge(
            "wahafleet_leases_held", "Leases of users held for passes under way.", registry=self.registry
        )
        self.fleet_holder = Gauge(
            "wahafleet_fleet_holder", "1 while this daemon holds the lease `fleet`.", registry=self.registry
        )
        self._duties = Counter(
            "wahafleet_duties",
            "Runs of the fleet's duties by outcome.",
            ["duty", "outcome"],
            registry=self.registry,
        )
        self._duty_seconds = Histogram(
            "wahafleet_duty_seconds",
            "How long one run of a duty takes.",
            ["duty"],
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._listing_seconds = Histogram(
            "wahafleet_listing_seconds",
            "How long it takes to read everything in bulk.",
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._findings = Counter(
            "wahafleet_sweep_findings",
            "Users that a sweep sent to a pass, by why.",
            ["why"],
            registry=self.registry,
        )
        self._users = Gauge(
            "wahafleet_users",
            "Users by phase and reason of their container, as the last sweep of this daemon saw them.",
            ["phase", "reason"],
            registry=self.registry,
        )
        self._orphans = Gauge(
            "wahafleet_orphans",
            "What no row explains, by kind and state, as the last round of this daemon's janitor saw it.",
            ["kind", "state"],
            registry=self.registry,
        )
        self._starts = Counter(
            "wahafleet_starts",
            "Starts of sessions that asked for a token, by outcome: granted, or paced.",
            ["outcome"],
            registry=self.registry,
        )
        self._start_wait_seconds = Histogram(
            "wahafleet_start_wait_seconds",
            "How long starts that got their token had stood in line.",
            registry=self.registry,
            buckets=_WAITS,
        )
        self._start_tokens = Gauge(
            "wahafleet_start_tokens",
            "Tokens in the fleet's bucket, as this daemon's last ask left it.",
            registry=self.registry,
        )
        self._start_line = Gauge(
            "wahafleet_start_line",
            "Chips of all daemons that wait for a start token, as this daemon's last ask saw it.",
            registry=self.registry,
        )
        self._readings = Counter(
            "wahafleet_exit_readings",
            "Readings of exits by outcome: ok, or why there was none.",
            ["outcome"],
            registry=self.registry,
        )
        self._seats = Gauge(
            "wahafleet_rollout_users",
            "Users of the newest release who wait or move, and how many of its newest moves failed.",
            ["state"],
            registry=self.registry,
        )
        self.rollout_paused = Gauge(
            "wahafleet_rollout_paused", "1 while the newest release is paused.", registry=self.registry
        )
        self._outcomes = {outcome: self._passes.labels(outcome.value) for outcome in Outcome}

    def count_pass(self, outcome: Outcome, took_s: float) -> None:
        """One pass has ended; busy and answered keys are counted without a duration, for there was no pass."""
        self._outcomes[outcome].inc()
        if outcome not in (Outcome.BUSY, Outcome.ANSWERED):
            self._pass_seconds.observe(took_s)

    def count_effects(self, results: Iterable[Result]) -> None:
        """What became of a pass's actions."""
        for result in results:
            self._effects.labels(type(result.action).__name__, result.verdict.value).inc()

    def count_starts(self, turns: Turns) -> None:
        """One pass asked for start tokens."""
        self._starts.labels("granted").inc(len(turns.waited_s))
        self._starts.labels("paced").inc(len(turns.waits))
        for waited_s in turns.waited_s.values():
            self._start_wait_seconds.observe(waited_s)
        self._start_tokens.set(turns.fleet_tokens)
        self._start_line.set(turns.line)

    def count_reading(self, reading: Reading) -> None:
        """One look at an exit has ended."""
        self._readings.labels(reading.failure.value if reading.failure is not None else "ok").inc()

    def count_duty(self, duty: str, outcome: str, took_s: float) -> None:
        """One run of a duty has ended; `outcome`: done, unavailable, late or broke."""
        self._duties.labels(duty, outcome).inc()
        self._duty_seconds.labels(duty).observe(took_s)

    def observe_listing(self, took_s: float) -> None:
        """Everything was read in bulk once."""
        self._listing_seconds.observe(took_s)

    def count_findings(self, found: Mapping[str, int]) -> None:
        """Users sent to a pass by a sweep, by why."""
        for why, number in found.items():
            self._findings.labels(why).inc(number)

    def set_users(self, by_phase: Mapping[tuple[str, str], int]) -> None:
        """All users by (phase, reason), in place of what was known before."""
        self._users.clear()
        for (phase, reason), number in by_phase.items():
            self._users.labels(phase, reason).set(number)

    def forget_users(self) -> None:
        """This daemon no longer sweeps: what it knew of users and orphans gets old."""
        self._users.clear()
        self._orphans.clear()
        self._seats.clear()

    def set_orphans(self, by_state: Mapping[tuple[str, str], int]) -> None:
        """All orphans by (kind, state), in place of what was known before."""
        self._orphans.clear()
        for (kind, state), number in by_state.items():
            self._orphans.labels(kind, state).set(number)

    def set_rollout(self, *, waiting: int, moving: int, failed: int) -> None:
        """The newest release, in place of what was known before; `failed` of its newest moves."""
        for state, number in (("waiting", waiting), ("moving", moving), ("failed", failed)):
            self._seats.labels(state).set(number)
