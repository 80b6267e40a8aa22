"""Names of everything that stands for a user or a chip in an outside system.

Every name is derived from a UUID, so it is valid, stable and distinct, and none has to be remembered:

    job id, job name     waha_plus_user_<user id>        52 characters
    Nomad variable path  nomad/jobs/<job id>             63; Nomad allows 128 of [a-zA-Z0-9-_~/]
    WAHA session         chip_<chip id>                  41; WAHA allows 54 of [a-zA-Z0-9-_]
    WAHA database        waha_<namespace>_<session>      63 at most, where PostgreSQL cuts silently
    storage namespace    u<15 base-36 characters>        16
"""

from __future__ import annotations

import re
import uuid
from functools import lru_cache

JOB_PREFIX = "waha_plus_user_"
SESSION_PREFIX = "chip_"
TASK_NAME = "waha_plus"
GROUP_NAME = "waha_plus"
PORT_LABEL = "http"
SERVICE_NAME = "waha-plus"
VARIABLE_PREFIX = "nomad/jobs/"
POSTGRES_NAME_LIMIT = 63

_NAMESPACE = re.compile(r"u[0-9a-z]{15}\Z")
_DATABASE = re.compile(r"waha_(u[0-9a-z]{15})(?:_|\Z)")


@lru_cache(maxsize=65_536)
def parse_id(text: str) -> str | None:
    """The canonical lower-case form of a UUID, or None for anything else (also for other spellings of one)."""
    try:
        canonical = str(uuid.UUID(text))
    except (ValueError, AttributeError, TypeError):
        return None
    return canonical if canonical == text.lower() else None


def job_id(user_id: str) -> str:
    return JOB_PREFIX + user_id


def container_name(user_id: str) -> str:
    """What the predecessor called the container; the same text as the job id."""
    return JOB_PREFIX + user_id


def user_of_job(job: str) -> str | None:
    """The user id in a job id, or None when the job is none of ours."""
    return parse_id(job.removeprefix(JOB_PREFIX)) if job.startswith(JOB_PREFIX) else None


def variable_path(user_id: str) -> str:
    """Where Nomad lets the job's own task read its secrets without a token."""
    return VARIABLE_PREFIX + job_id(user_id)


def session_name(chip_id: str) -> str:
    return SESSION_PREFIX + chip_id


@lru_cache(maxsize=65_536)
def chip_of_session(session: str) -> str | None:
    """The chip id in a WAHA session name, or None when the session is none of ours."""
    return parse_id(session.removeprefix(SESSION_PREFIX)) if session.startswith(SESSION_PREFIX) else None


def is_namespace(text: str) -> bool:
    return _NAMESPACE.match(text) is not None


def database_name(namespace: str, session: str) -> str:
    """The PostgreSQL database that WAHA gives a session (WAHA storage docs, 2026.3.1 and later)."""
    slug = re.sub(r"[^a-z0-9-]", "_", session.lower())
    return f"waha_{namespace}_{slug}"


def main_database(namespace: str) -> str:
    """The database that a container keeps its sessions' configurations in (same source)."""
    return f"waha_{namespace}"


def stored_name(database: str) -> str:
    """What PostgreSQL makes of a database's name: it is cut to 63 bytes, without an error."""
    return database.encode()[:POSTGRES_NAME_LIMIT].decode(errors="ignore")


@lru_cache(maxsize=65_536)
def namespace_of_database(database: str) -> str | None:
    """The storage namespace in a database's name, or None when the database is none of ours.

    Namespaces have one length, so no namespace's databases are ever another's by a common beginning.
    """
    found = _DATABASE.match(database)
    return found.group(1) if found else None


@lru_cache(maxsize=65_536)
def chip_of_database(database: str) -> str | None:
    """The chip whose session the database belongs to; None for a container's main database and others'."""
    namespace = namespace_of_database(database)
    if namespace is None:
        return None
    return chip_of_session(database.removeprefix(f"{main_database(namespace)}_"))
