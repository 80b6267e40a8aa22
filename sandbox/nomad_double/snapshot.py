"""The state as it was at one moment, for answers of a server that lags behind."""

from __future__ import annotations

import asyncio
import copy
from collections import defaultdict
from typing import TYPE_CHECKING

from sandbox.nomad_double.state import StateStore

if TYPE_CHECKING:
    from sandbox.nomad_double.double import NomadDouble

_TABLES = (
    *("jobs", "versions", "submissions", "summaries", "allocs", "evals", "deployments", "nodes"),
    *("variables", "table_index"),
)
_INDEXES = ("_job_allocs", "_node_allocs", "_job_evals")


def frozen_copy(state: StateStore) -> StateStore:
    """A store that never changes again. Objects are shared: nothing changes a stored one in place."""
    frozen = copy.copy(state)
    for name in _TABLES:
        setattr(frozen, name, dict(getattr(state, name)))
    for name in _INDEXES:
        setattr(frozen, name, {key: dict(members) for key, members in getattr(state, name).items()})
    frozen._storage = None
    frozen._observers = []
    frozen._changed = defaultdict(asyncio.Event)
    return frozen


def stale_double(double: NomadDouble) -> NomadDouble:
    """The double as it is now, for reading only."""
    stale = copy.copy(double)
    stale.state = frozen_copy(double.state)
    return stale
