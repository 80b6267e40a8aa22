"""What every kind of storage refuses."""

from __future__ import annotations

from typing import Final

from core.domain.names import is_namespace, namespace_of_database, stored_name
from core.errors import Rejected

SYSTEM: Final = "storage"


def checked_namespace(namespace: str) -> str:
    """`namespace`, or Rejected when it is none of our shape."""
    if not is_namespace(namespace):
        raise Rejected(SYSTEM, "that is no storage namespace of ours", code="not_a_namespace")
    return namespace


def checked_database(namespace: str, database: str) -> str:
    """The name that the database really has, or Rejected when it is not one of the namespace's."""
    stored = stored_name(database)
    if namespace_of_database(stored) != checked_namespace(namespace):
        raise Rejected(SYSTEM, "that database is not of this namespace", code="not_a_database")
    return stored
