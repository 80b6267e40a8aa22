"""A user's Nomad job: a compiled jobspec with a closed list of slots filled in, and its fingerprints.

build(template, slots)  -> the Job as Nomad's API takes it, with both hashes
variables(...)          -> the secrets that go into the Nomad Variable beside it
submission(...)         -> what makes the Nomad UI show the HCL instead of bare JSON
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import msgspec

from core.domain import names
from core.domain.desired import SpecHashes
from core.domain.jobspec_rules import (
    ENGINES,
    environment_problems,
    image_problems,
    looks_secret,
    secret_problems,
)
from core.domain.jobspec_template import JobspecError, SlotValue, declared, fill, hcl_values, slots_in, texts

__all__ = ["Built", "JobSlots", "JobspecError", "build", "hashes", "render", "submission", "variables"]

HOOK_KEY_ITEM: Final = "hook_key"
STORAGE_ITEM: Final = "storage_dsn"
_SPEC_SLOT = "spec_hash"
_API_KEY_HASH = re.compile(r"sha512:[0-9a-f]{128}\Z")
_ENV_NAME = re.compile(r"WAHA_SIM_[A-Z0-9_]+\Z")
_NOT_PLAIN = re.compile(r"[\x00-\x1f\x7f]|\$\{|%\{|\{\{")

# Fields that Nomad changes without touching the container, each measured on 1.10.5 by plan and by register
# (tests/contract/jobspec). Everything else counts as restarting, also where it depends: another datacenter is
# in place only while the host still matches.
# Disconnect is in place for the servers, but not for the client, whose timer keeps its old value until it gets
# a new allocation; therefore the jobspecs repeat S in task meta, and that restarts.
IN_PLACE: Final[Mapping[str, frozenset[str]]] = {
    "job": frozenset({"Affinities", "Constraints", "Priority", "Spreads", "UI", "Update"}),
    "group": frozenset(
        {
            "Affinities",
            "Constraints",
            "Disconnect",
            "Migrate",
            "ReschedulePolicy",
            "RestartPolicy",
            "Services",
            "ShutdownDelay",
            "Spreads",
            "Update",
        }
    ),
    "task": frozenset(
        {
            "Affinities",
            "Constraints",
            "KillSignal",
            "KillTimeout",
            "Leader",
            "LogConfig",
            "RestartPolicy",
            "Services",
            "ShutdownDelay",
        }
    ),
}
# The one part of such a field that restarts all the same.
_RESTARTING_PART: Final = {"RestartPolicy": "RenderTemplates", "LogConfig": "Disabled"}


class JobSlots(msgspec.Struct, frozen=True, kw_only=True):
    """Everything in which one user's job differs from another's; nothing else in a job ever varies.

    Attributes:
        user_id: UUID. owner: who that is for people (`shown_owner`). console_link: http(s) URL.
        nomad_namespace, datacenters, node_pool: where it may run.
        stop_on_disconnect_s: S, whole seconds.
        image: with tag or digest; empty with the simulator. engine: one of `ENGINES`.
        docker_network: name of the Docker network.
        cpu_mhz, memory_mb (reserved), memory_max_mb (hard limit), node_heap_mb (of Node's heap).
        namespace: storage namespace. api_key_hash: `sha512:<hex>`. hook_url: where webhooks go.
        simulator_command, simulator_args, simulator_env: the program of jobspec waha-simulator, and further
            WAHA_SIM_* variables as (name, value) pairs.
    """

    user_id: str
    owner: str
    console_link: str
    nomad_namespace: str = "default"
    datacenters: tuple[str, ...] = ("*",)
    node_pool: str = "default"
    stop_on_disconnect_s: int = 60
    image: str = ""
    engine: str = "GOWS"
    docker_network: str = "bridge"
    cpu_mhz: int
    memory_mb: int
    memory_max_mb: int
    node_heap_mb: int
    namespace: str
    api_key_hash: str
    hook_url: str
    simulator_command: str = ""
    simulator_args: tuple[str, ...] = ()
    simulator_env: tuple[tuple[str, str], ...] = ()

    def values(self, spec_hash: str = "") -> dict[str, SlotValue]:
        """Slot name -> value, as templates and HCL variables know them."""
        return {**{name: getattr(self, name) for name in self.__struct_fields__}, _SPEC_SLOT: spec_hash}


class Built(msgspec.Struct, frozen=True):
    """A job as `PUT /v1/jobs` takes it under `Job`, and its fingerprints."""

    job: dict[str, Any]
    hashes: SpecHashes


def build(template: Mapping[str, Any], slots: JobSlots) -> Built:
    """Fill a compiled jobspec.

    The spec hash covers everything but the place where it stands itself.

    Raises JobspecError, all problems at once: a slot that the template asks for and nobody knows, one that is
    empty or malformed, an environment variable that WAHA does not know, anything that looks like a secret.
    """
    asked = slots_in(template)
    problems = _slot_problems(slots, asked)
    if problems:
        raise JobspecError(*problems)
    bare = fill(template, slots.values(), asked)
    problems = [*environment_problems(bare, slots.image), *secret_problems(bare)]
    if problems:
        raise JobspecError(*problems)
    found = SpecHashes(spec=_digest(bare), restart=_digest(_without_in_place(bare)))
    job = fill(template, slots.values(found.spec), asked) if _SPEC_SLOT in asked else bare
    return Built(job=job, hashes=found)


def render(template: Mapping[str, Any], slots: JobSlots) -> dict[str, Any]:
    """The Job alone; see `build`."""
    return build(template, slots).job


def hashes(template: Mapping[str, Any], slots: JobSlots) -> SpecHashes:
    """The fingerprints alone; see `build`."""
    return build(template, slots).hashes


def submission(hcl_source: str, slots: JobSlots, spec_hash: str) -> dict[str, str]:
    """`Submission` of a register: the HCL and the variables it stands for, shown and editable in the Nomad UI."""
    types = declared(hcl_source)
    values = slots.values(spec_hash)
    return {"Format": "hcl2", "Source": hcl_source, "Variables": hcl_values(types, values)}


def variables(template: Mapping[str, Any], *, hook_key: str, storage_dsn: str) -> dict[str, str]:
    """Items of the Nomad Variable that the job's template reads.

    `storage_dsn`: a PostgreSQL URL for containers, an absolute folder for simulators. A URL without `sslmode`
    gets `sslmode=disable`, since WAHA's engines disagree about the default (lib/pq would demand TLS).

    Raises JobspecError, without repeating a value, when one of them cannot be right.
    """
    simulated = _driver(template) == "raw_exec"
    problems = []
    if not hook_key or _NOT_PLAIN.search(hook_key):
        problems.append("the container's webhook key is empty or malformed.")
    if simulated and not storage_dsn.startswith("/"):
        problems.append(
            "the simulator's store must be the absolute path of a folder: set WAHAFLEET_STORAGE_DSN."
        )
    if not simulated and not _is_postgres(storage_dsn):
        problems.append(
            "WAHA's storage must be a URL postgres://user:password@host/database: set WAHAFLEET_STORAGE_DSN."
        )
    if problems:
        raise JobspecError(*problems)
    return {HOOK_KEY_ITEM: hook_key, STORAGE_ITEM: storage_dsn if simulated else with_sslmode(storage_dsn)}


def variables_hash(items: Mapping[str, str]) -> str:
    """Fingerprint of the secrets, by which a change is seen without keeping them.

    Plain SHA-256 is enough: every set holds a hook key of 256 random bits, so nothing can be guessed from it.
    """
    return _digest(dict(items))


def with_sslmode(dsn: str) -> str:
    """The URL with `sslmode=disable` unless it says something about it."""
    parts = urlsplit(dsn)
    if "sslmode" in parse_qs(parts.query, keep_blank_values=True):
        return dsn
    query = f"{parts.query}&sslmode=disable" if parts.query else "sslmode=disable"
    return parts._replace(query=query).geturl()


def shown_owner(email: str) -> str:
    """An e-mail address as it may stand in the Nomad UI, whose descriptions are Markdown.

    One that is as long and random as a secret loses its middle: its owner shall have a container too.
    """
    shown = re.sub(r"[^\w.+@' -]", "?", email)[:200]
    return f"{shown[:16]}...{shown[-16:]}" if looks_secret(shown) else shown


def _slot_problems(slots: JobSlots, asked: frozenset[str]) -> list[str]:
    found = []
    values = slots.values()
    for name in sorted(asked & values.keys() - {_SPEC_SLOT, "simulator_args", "simulator_env"}):
        if values[name] in ("", ()):
            found.append(f"slot {name} is empty and the jobspec needs it.")
    for name, value in values.items():
        if any(_NOT_PLAIN.search(text) for text in texts(value)):
            found.append(f"slot {name} holds a control character or the beginning of a template: remove it.")
    if names.parse_id(slots.user_id) != slots.user_id:
        found.append("slot user_id is no UUID in lower case.")
    if not names.is_namespace(slots.namespace):
        found.append("slot namespace is no storage namespace: u and 15 characters of 0-9a-z.")
    if not _API_KEY_HASH.match(slots.api_key_hash):
        found.append("slot api_key_hash must be sha512: and 128 hex characters, never the key itself.")
    if slots.engine not in ENGINES:
        found.append(f"slot engine must be one of {', '.join(ENGINES)}.")
    if "image" in asked and slots.image:
        found += image_problems(slots.image)
    for name, url in (("hook_url", slots.hook_url), ("console_link", slots.console_link)):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            found.append(
                f"slot {name} must be an address such as http://host:port/path, without credentials."
            )
    if slots.cpu_mhz < 1 or not 10 <= slots.memory_mb <= slots.memory_max_mb:
        found.append("a container needs cpu_mhz above 0 and 10 <= memory_mb <= memory_max_mb.")
    if not 0 < slots.node_heap_mb < slots.memory_max_mb:
        found.append("slot node_heap_mb must lie below memory_max_mb.")
    if slots.stop_on_disconnect_s < 45:
        found.append(
            "stop_on_disconnect_s below 45 makes a healthy host stop its containers: use 45 or more."
        )
    found += [
        f"simulator_env may hold WAHA_SIM_* alone, not {name}."
        for name, _ in slots.simulator_env
        if not _ENV_NAME.match(name)
    ]
    return found


def _without_in_place(job: Mapping[str, Any]) -> dict[str, Any]:
    def bare(part: Mapping[str, Any], kind: str) -> dict[str, Any]:
        kept = {key: value for key, value in part.items() if key not in IN_PLACE[kind]}
        for key, inner in _RESTARTING_PART.items():
            if key in IN_PLACE[kind] and inner in (part.get(key) or {}):
                kept[key] = {inner: part[key][inner]}
        return kept

    kept = bare(job, "job")
    kept["TaskGroups"] = [
        bare(group, "group") | {"Tasks": [bare(task, "task") for task in group["Tasks"]]}
        for group in job["TaskGroups"]
    ]
    return kept


def _digest(value: Any) -> str:
    """128 bits of SHA-256 over the canonical JSON, as 32 hex characters."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def _driver(template: Mapping[str, Any]) -> str:
    return str(template["TaskGroups"][0]["Tasks"][0]["Driver"])


def _is_postgres(dsn: str) -> bool:
    try:
        parts = urlsplit(dsn)
    except ValueError:
        return False
    return parts.scheme in ("postgres", "postgresql") and bool(parts.hostname) and not _NOT_PLAIN.search(dsn)
