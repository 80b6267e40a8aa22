"""From what the store holds of a user to what is wanted, with the fingerprints of the job as it should be."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog

from core.domain.desired import Desired, Resources, SpecHashes
from core.domain.jobspec import JobspecError
from core.jobs import WantedJob, wanted_job
from core.jobspecs import Template
from core.settings import JobSettings
from core.store.interface import ContainerRow, ContainerSecrets, UserSnapshot
from core.wishes import WantedPrints, desired_of

_FINGERPRINTS_KEPT = 20_000
_JOBS_KEPT = 64
NO_JOB: Final = SpecHashes(spec="", restart="")
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


_log = structlog.get_logger(__name__)


class _Fingerprints(msgspec.Struct, frozen=True):
    made_from: tuple[object, ...]
    hashes: SpecHashes
    variables_hash: str


class Loader:
    """Makes jobs from rows. Remembers fingerprints; of whole jobs, which are large, only the last few."""

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
        self._refused: dict[str, tuple[object, ...]] = {}
        self._jobs: OrderedDict[tuple[object, ...], WantedJob] = OrderedDict()
        self._release: str | None = None

    def check(self) -> None:
        """Make a job for nobody in particular, so that wrong settings are told before anything is done.

        Raises JobspecError.
        """
        self.job(_nobody(self._settings.storage_id))

    @property
    def release(self) -> str:
        """Fingerprint of what in the settings restarts containers when it changes; "" where no job can be made.

        It is the restart hash of a job for nobody in particular, so all daemons with these settings share it.
        """
        if self._release is None:
            try:
                self._release = self.job(_nobody(self._settings.storage_id)).hashes.restart
            except JobspecError:
                self._release = ""
        return self._release

    def job(self, row: ContainerRow) -> WantedJob:
        """The user's job with its secrets beside it. Raises JobspecError."""
        made_from = (row.user_id, *_inputs(row))
        job = self._jobs.get(made_from)
        if job is None:
            job = wanted_job(
                self._template,
                row,
                self._settings,
                nomad_namespace=self._nomad_namespace,
                stop_on_disconnect_s=self._stop_on_disconnect_s,
            )
            self._jobs[made_from] = job
            if len(self._jobs) > _JOBS_KEPT:
                self._jobs.popitem(last=False)
        return job

    def desired(self, snapshot: UserSnapshot) -> Desired:
        """What the user wants, also where no job can be made for them from the settings (`renderable`)."""
        wanted = self._fingerprints(snapshot.container)
        prints = None if wanted is None else WantedPrints(wanted.hashes, wanted.variables_hash)
        superseded = snapshot.newest_release not in (None, self.release)
        return desired_of(snapshot, prints, release=self.release, superseded=superseded)

    def _fingerprints(self, row: ContainerRow) -> _Fingerprints | None:
        """None when no job can be made; said once for each set of inputs, since every pass meets it."""
        made_from = _inputs(row)
        known = self._known.get(row.user_id)
        if known is None or known.made_from != made_from:
            try:
                job = self.job(row)
            except JobspecError as error:
                if self._refused.get(row.user_id) != made_from:
                    self._refused[row.user_id] = made_from
                    _log.error("job_not_renderable", user_id=row.user_id, problems=str(error))
                return None
            self._refused.pop(row.user_id, None)
            known = _Fingerprints(made_from, job.hashes, job.variables_hash)
            self._known[row.user_id] = known
        self._known.move_to_end(row.user_id)
        if len(self._known) > _FINGERPRINTS_KEPT:
            self._known.popitem(last=False)
        return known


def _nobody(storage_id: str) -> ContainerRow:
    """A container like any other; the same each time, for its job is compared."""
    return ContainerRow(
        user_id=str(uuid.UUID(int=0)),
        email="nobody@example.com",
        plan_slug="free",
        resources=Resources(cpu_mhz=200, memory_mb=300, memory_max_mb=1024),
        max_chips=1,
        generation=1,
        pinned=False,
        deleted=False,
        namespace=f"u{0:015d}",
        storage_id=storage_id,
        created_at=_LONG_AGO,
        phase="absent",
        reason=None,
        since=_LONG_AGO,
        registered=None,
        variables_hash=None,
        current_allocation=None,
        empty_since=None,
        secrets=ContainerSecrets(api_key="nobody's key", hook_key="nobody's key"),
    )


def _inputs(row: ContainerRow) -> tuple[object, ...]:
    """What of a row goes into its job."""
    return (row.email, row.resources, row.namespace, row.storage_id, row.secrets)


def generation_of(snapshot: UserSnapshot) -> int:
    """The newest generation that a pass over this snapshot answers."""
    return max([snapshot.container.generation, *(chip.generation for chip in snapshot.chips)])
