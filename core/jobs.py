"""From a stored container and the settings to the job that it should have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from core.crypto import hashed_api_key
from core.domain.desired import SpecHashes
from core.domain.jobspec import (
    JobSlots,
    JobspecError,
    build,
    shown_owner,
    submission,
    variables,
    variables_hash,
)
from core.jobspecs import Template
from core.settings import JobSettings
from core.store.interface import ContainerRow

# Share of the hard limit that Node's heap may take. With GOWS a Go process and with WEBJS and WPP a browser
# lives in the same container; NOWEB is Node alone.
_HEAP_SHARE = {"GOWS": 0.5, "NOWEB": 0.75, "WEBJS": 0.5, "WPP": 0.5}


class WantedJob(msgspec.Struct, frozen=True):
    """A container's job as it should be.

    Attributes:
        job: the `Job` of a register. submission: its `Submission`.
        hashes: fingerprints of the job. variables: items of its Nomad Variable, in plain text.
        variables_hash: fingerprint of those.
    """

    job: dict[str, Any]
    submission: dict[str, str]
    hashes: SpecHashes
    variables: dict[str, str]
    variables_hash: str

    def __repr__(self) -> str:
        return f"WantedJob({self.job.get('ID')}, {self.hashes})"


def slots_for(
    row: ContainerRow,
    settings: JobSettings,
    *,
    nomad_namespace: str = "default",
    stop_on_disconnect_s: float = 60,
    simulator_env: Mapping[str, str] | None = None,
) -> JobSlots:
    """What one user's job is filled with. Holds the API key's hash, and no other trace of a secret."""
    limit = row.resources.memory_max_mb
    simulated = settings.jobspec == "waha-simulator"
    return JobSlots(
        user_id=row.user_id,
        owner=shown_owner(row.email),
        console_link=f"{settings.console_url}/?user={row.user_id}",
        nomad_namespace=nomad_namespace,
        datacenters=settings.datacenters,
        node_pool=settings.node_pool,
        stop_on_disconnect_s=math.ceil(stop_on_disconnect_s),
        image="" if simulated else settings.image,
        engine=settings.engine,
        docker_network=settings.docker_network,
        cpu_mhz=row.resources.cpu_mhz,
        memory_mb=row.resources.memory_mb,
        memory_max_mb=limit,
        node_heap_mb=int(limit * _HEAP_SHARE.get(settings.engine, 0.5)),
        namespace=row.namespace,
        api_key_hash=hashed_api_key(row.secrets.api_key),
        hook_url=f"{settings.hook_base_url}/api/v1/webhooks/waha/{row.user_id}",
        simulator_command=settings.simulator_command if simulated else "",
        simulator_args=settings.simulator_args if simulated else (),
        simulator_env=tuple(sorted((simulator_env or {}).items())) if simulated else (),
    )


def wanted_job(
    template: Template,
    row: ContainerRow,
    settings: JobSettings,
    *,
    nomad_namespace: str = "default",
    stop_on_disconnect_s: float = 60,
    simulator_env: Mapping[str, str] | None = None,
) -> WantedJob:
    """Everything that a register and its Nomad Variable need.

    Raises JobspecError (sentences for an operator, without secrets) when the job cannot be made from these
    settings, also when the container's storage server is not the one that the settings name.
    """
    dsn = settings.storages().get(row.storage_id)
    if dsn is None and row.storage_id != settings.storage_id:
        raise JobspecError(
            f"the container's sessions are on storage {row.storage_id!r}, which is not set up: name it in "
            "WAHAFLEET_STORAGES with its DSN."
        )
    slots = slots_for(
        row,
        settings,
        nomad_namespace=nomad_namespace,
        stop_on_disconnect_s=stop_on_disconnect_s,
        simulator_env=simulator_env,
    )
    built = build(template.job, slots)
    items = variables(template.job, hook_key=row.secrets.hook_key, storage_dsn=dsn.reveal() if dsn else "")
    return WantedJob(
        job=built.job,
        submission=submission(template.source, slots, built.hashes.spec),
        hashes=built.hashes,
        variables=items,
        variables_hash=variables_hash(items),
    )
