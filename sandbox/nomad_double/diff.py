"""The diff of a plan: what changes between two specs, in the nested form that Nomad's API uses.

Built generically from the stored JSON: primitive fields become `Fields`, nested objects `Objects`, task groups and
tasks their own lists. Field names are those of the API (Nomad's own diff renames a few nested ones).
"""

from __future__ import annotations

from typing import Any

from sandbox.nomad_double.jobspec import BOOKKEEPING
from sandbox.nomad_double.model import Json

_SKIP = BOOKKEEPING | {"TaskGroups", "Tasks"}


def job_diff(old: Json | None, new: Json) -> Json:
    """Compare the stored job (None: there is none) with a candidate."""
    fields, objects = _parts(old or {}, new)
    groups = _named(old, new, "TaskGroups", _group)
    changed = bool(fields or objects or any(group["Type"] != "None" for group in groups))
    kind = "Added" if old is None else ("Edited" if changed else "None")
    return {"Type": kind, "ID": new["ID"], "Fields": fields, "Objects": objects, "TaskGroups": groups}


def _group(old: Json | None, new: Json | None) -> Json:
    fields, objects = _parts(old or {}, new or {})
    tasks = _named(old, new, "Tasks", _task)
    changed = bool(fields or objects or any(task["Type"] != "None" for task in tasks))
    return {
        "Type": _kind(old, new, changed),
        "Name": (new or old or {})["Name"],
        "Fields": fields,
        "Objects": objects,
        "Tasks": tasks,
        "Updates": None,
    }


def _task(old: Json | None, new: Json | None) -> Json:
    fields, objects = _parts(old or {}, new or {})
    return {
        "Type": _kind(old, new, bool(fields or objects)),
        "Name": (new or old or {})["Name"],
        "Fields": fields,
        "Objects": objects,
        "Annotations": None,
    }


def _named(old: Json | None, new: Json | None, field: str, compare: Any) -> list[Json]:
    before = {item["Name"]: item for item in (old or {}).get(field) or ()}
    after = {item["Name"]: item for item in (new or {}).get(field) or ()}
    return [compare(before.get(name), after.get(name)) for name in sorted(before.keys() | after.keys())]


def _parts(old: Json, new: Json) -> tuple[list[Json], list[Json]]:
    fields: list[Json] = []
    objects: list[Json] = []
    for key in sorted(old.keys() | new.keys()):
        if key in _SKIP:
            continue
        a, b = old.get(key), new.get(key)
        if a == b:
            continue
        if _primitive(a) and _primitive(b):
            if _text(a) == _text(b):
                continue
            fields.append(_field(key, a, b))
            continue
        inner_fields, inner_objects = _parts(_as_object(a), _as_object(b))
        if inner_fields or inner_objects:
            objects.append(
                {
                    "Type": _kind(a, b, True),
                    "Name": key,
                    "Fields": inner_fields,
                    "Objects": inner_objects or None,
                }
            )
    return fields, objects


def _field(name: str, old: Any, new: Any) -> Json:
    return {
        "Type": "Added" if old is None else ("Deleted" if new is None else "Edited"),
        "Name": name,
        "Old": _text(old),
        "New": _text(new),
        "Annotations": None,
    }


def _kind(old: object, new: object, changed: bool) -> str:
    if not old:
        return "Added"
    if not new:
        return "Deleted"
    return "Edited" if changed else "None"


def _primitive(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _as_object(value: Any) -> Json:
    if isinstance(value, dict):
        return value
    if isinstance(value, list):
        return {str(number): item for number, item in enumerate(value)}
    return {} if value is None else {"": value}


def _text(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
