"""From what the store holds of a user to what is wanted, with the fingerprints of the job as it should be."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from core.domain.desired import Desired, DesiredChip, DesiredContainer, SpecHashes
from core.jobs import WantedJob, wanted_job
from core.jobspecs import Template
from core.settings import JobSettings
from core.store.interface import ChipRow, ContainerRow, UserSnapshot

_FINGERPRINTS_KEPT = 20_000


class _Fingerprints(msgspec.Struct, frozen=True):
    made_from: tuple[object, ...]
    hashes: SpecHashes
    variables_hash: str


class Loader:
    """Makes jobs from rows. Remembers fingerprints alone: a rendered job is large and rarely needed."""

    def __init__(
        self,
        template: Template,
        settings: JobSettings,
        *,
        nomad_namespace: str = "default",
        stop_on_disconnect_s: float = 60,
    ) -> None:
        self._template = template
        self._settings = settings
        self._nomad_namespace = nomad_namespace
        self._stop_on_disconnect_s = stop_on_disconnect_s
        self._known: OrderedDict[str, _Fingerprints] = OrderedDict()

    def job(self, row: ContainerRow) -> WantedJob:
        """The user's job with its secrets beside it. Raises JobspecError."""
        return wanted_job(
            self._template,
            row,
            self._settings,
            nomad_namespace=self._nomad_namespace,
            stop_on_disconnect_s=self._stop_on_disconnect_s,
        )

    def desired(self, snapshot: UserSnapshot) -> Desired:
        """What the user wants. Raises JobspecError when no job can be made for them from the settings."""
        row = snapshot.container
        wanted = self._fingerprints(row)
        return Desired(
            container=DesiredContainer(
                user_id=row.user_id,
                generation=row.generation,
                wanted_hashes=wanted.hashes,
                wanted_variables_hash=wanted.variables_hash,
                registered=row.registered,
                variables_hash=row.variables_hash,
                pinned=row.pinned,
                empty_since=row.empty_since,
                deleted=row.deleted,
                phase=row.phase,
                reason=row.reason,
                since=row.since,
                current_allocation=row.current_allocation,
            ),
            chips=tuple(_chip(chip) for chip in snapshot.chips),
            max_chips=row.max_chips,
        )

    def _fingerprints(self, row: ContainerRow) -> _Fingerprints:
        made_from = (row.email, row.resources, row.namespace, row.storage_id, row.secrets)
        known = self._known.get(row.user_id)
        if known is None or known.made_from != made_from:
            job = self.job(row)
            known = _Fingerprints(made_from, job.hashes, job.variables_hash)
            self._known[row.user_id] = known
        self._known.move_to_end(row.user_id)
        if len(self._known) > _FINGERPRINTS_KEPT:
            self._known.popitem(last=False)
        return known


def generation_of(snapshot: UserSnapshot) -> int:
    """The newest generation that a pass over this snapshot answers."""
    return max([snapshot.container.generation, *(chip.generation for chip in snapshot.chips)])


def _chip(row: ChipRow) -> DesiredChip:
    return DesiredChip(
        id=row.id,
        wanted=row.wanted,
        generation=row.generation,
        intent_at=row.intent_at,
        created_at=row.created_at,
        connected_at=row.connected_at,
        unlinked_generation=row.unlinked_generation,
        tries=row.tries,
        phase=row.phase,
        reason=row.reason,
        status=row.status,
        since=row.since,
    )
