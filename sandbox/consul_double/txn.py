"""PUT /v1/txn: several operations on keys that all take effect, or none."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from sandbox.consul_double.catalog import Json
from sandbox.consul_double.kv import Entry, KeyValues
from sandbox.consul_double.refusal import RefusalError

_READS = frozenset({"get", "get-tree", "check-index", "check-session", "check-not-exists"})


class _FailedError(Exception):
    """One operation did not hold; the text is its `What`."""


def run(store: KeyValues, operations: Any) -> tuple[int, Json]:
    """(status, reply) of a transaction: 200 with results, or 409 with what did not hold."""
    if not isinstance(operations, list):
        raise RefusalError(
            400, "Failed to parse body: json: cannot unmarshal object into Go value of type api.TxnOps"
        )
    before = store.snapshot()
    results: list[Json] = []
    errors: list[Json] = []
    reads_only = True
    for number, operation in enumerate(operations):
        kv = operation.get("KV") if isinstance(operation, dict) else None
        if not isinstance(kv, dict):
            raise RefusalError(400, "The Consul double runs transactions on keys only: use KV operations.")
        verb = kv.get("Verb")
        reads_only = reads_only and (verb in _READS or verb not in _WRITES)
        try:
            results.extend({"KV": view} for view in _apply(store, kv))
        except _FailedError as error:
            errors.append({"OpIndex": number, "What": str(error)})
    if errors:
        store.restore(before)
    reply: Json = {"Results": None if errors else results, "Errors": errors or None}
    if reads_only:
        reply |= {"Index": 0, "LastContact": 0, "KnownLeader": True, "ConsistencyLevel": ""}
    return (409 if errors else 200), reply


def _apply(store: KeyValues, kv: Json) -> list[Json]:
    verb, key = kv.get("Verb"), kv.get("Key") or ""
    if verb in _READS:
        if not key:
            raise _FailedError("Must provide key")
        return _read(store, str(verb), key, kv)
    if verb in _WRITES:
        if not key and verb != "delete-tree":
            raise _FailedError("Must provide key")
        return _write(store, str(verb), key, kv)
    raise _FailedError(f'unknown KV verb "{verb}"')


def _read(store: KeyValues, verb: str, key: str, kv: Json) -> list[Json]:
    if verb == "get-tree":
        return [entry.view() for entry in store.tree(key)[1]]
    entry = store.get(key)[1]
    if verb == "check-not-exists":
        if entry is not None:
            raise _FailedError(f'key "{key}" exists')
        return []
    if verb == "get":
        if entry is None:
            raise _FailedError(f'key "{key}" doesn\'t exist')
        return [entry.view()]
    if verb == "check-session":
        if entry is None:
            raise _FailedError(f'failed to check session, key "{key}" doesn\'t exist')
        wanted = kv.get("Session") or ""
        if entry.session != wanted:
            raise _FailedError(
                f'failed session check for key "{key}", current session "{entry.session}" != "{wanted}"'
            )
        return [entry.view(with_value=False)]
    if entry is None:
        raise _FailedError(f'failed to check index, key "{key}" doesn\'t exist')
    index = kv.get("Index") or 0
    if entry.modify_index != index:
        raise _FailedError(
            f'failed index check for key "{key}", current modify index {entry.modify_index} != {index}'
        )
    return [entry.view(with_value=False)]


def _write(store: KeyValues, verb: str, key: str, kv: Json) -> list[Json]:
    if verb in ("delete", "delete-tree", "delete-cas"):
        cas = (kv.get("Index") or 0) if verb == "delete-cas" else None
        if not store.delete(key, cas=cas, recurse=verb == "delete-tree"):
            raise _FailedError(f'failed to delete key "{key}", index is stale')
        return []
    value, flags, session = _bytes(kv.get("Value")), kv.get("Flags") or 0, kv.get("Session") or ""
    if verb == "set":
        store.put(key, value, flags)
    elif verb == "cas":
        if not store.put(key, value, flags, cas=kv.get("Index") or 0):
            raise _FailedError(f'failed to set key "{key}", index is stale')
    elif verb == "lock":
        try:
            held = store.acquire(key, value, flags, session)
        except RefusalError as error:
            raise _FailedError(error.text) from error
        if not held:
            raise _FailedError(f'failed to lock key "{key}", lock is already held')
    elif not store.release(key, value, flags, session):
        raise _FailedError(f'failed to unlock key "{key}", lock isn\'t held, or is held by another session')
    entry: Entry | None = store.get(key)[1]
    assert entry is not None
    return [entry.view(with_value=False)]


_WRITES = frozenset({"set", "cas", "lock", "unlock", "delete", "delete-tree", "delete-cas"})


def _bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(value or "", validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise RefusalError(400, f"Failed to parse body: {error}") from error
