"""Is it this chip alone that fails, or others with it? A press costs credentials only in the first case."""

from __future__ import annotations

from core.domain.desired import Consent, Desired, Wanted
from core.domain.facts import Group, Peers
from core.domain.policy import Policy
from core.domain.states import ChipPhase


def others_fail_too(peers: Peers, policy: Policy) -> bool:
    """An outage: others of the same host, engine version or proxy provider fail at the same time, or most do."""
    return any(_fails(group, policy) for group in (peers.host, peers.engine, peers.provider))


def _fails(group: Group, policy: Policy) -> bool:
    # What began a moment ago is rarely chance. Of what fails for hours a few are always there, and say nothing
    # of the others; many of them are an outage that lasts.
    everybody = group.failing + group.connected
    lately = group.lately >= max(1.0, policy.peer_lately_share * everybody)
    return lately or group.failing >= max(1.0, policy.peer_failing_share * everybody)


def asks_for_peers(desired: Desired, policy: Policy) -> bool:
    """Whether the answer may matter in this pass: a press whose tries are spent stands before its end."""
    return any(
        chip.consent is Consent.PRESS
        and chip.wanted is Wanted.CONNECTED
        and chip.tries.generation == chip.generation
        and chip.tries.failures >= policy.max_failures
        and chip.phase != ChipPhase.FAILED
        and chip.connected_at is not None
        for chip in desired.chips
    )
