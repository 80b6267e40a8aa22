"""Whether a container's sessions are stored under its own namespace and nobody else's.

Nobody promises that an image honours the namespace that it is given. One that does not would put the
sessions of all users into one database, where each container may start the chips of every other. So a new
container starts one session, its storage is looked at, and only then may it start more.
"""

from __future__ import annotations

from core.domain.desired import Desired
from core.domain.facts import NOT_ASKED, Known, Missing, Observation, Unknown
from core.domain.states import Reason


def isolation_is_open(desired: Desired, observation: Observation) -> bool:
    """Whether it is still to be found out; false as well where the daemon was given no storage to look at."""
    storage = observation.storage
    if desired.container.isolated or isinstance(storage, Missing):
        return False
    return not (isinstance(storage, Known) and storage.value)


def isolation_failure(desired: Desired, observation: Observation) -> str | None:
    """Why no session may be started although one was; None while nothing speaks against it."""
    sessions, storage = observation.sessions, observation.storage
    if not isolation_is_open(desired, observation) or not isinstance(sessions, Known) or not sessions.value:
        return None
    if isinstance(storage, Unknown):
        return None if storage.why == NOT_ASKED else storage.why
    return Reason.STORAGE_NOT_ISOLATED
