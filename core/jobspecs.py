"""The compiled jobspecs as files: found in a checkout and in an installed wheel by one function."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import msgspec

from core.domain.jobspec_template import JobspecError

STEMS = ("waha-plus", "waha-simulator")
_SUM_LINE = re.compile(r"^(sha256:([0-9a-f]{64})  (\S+)|nomad:(\S+))$", re.MULTILINE)


class Template(msgspec.Struct, frozen=True):
    """A compiled jobspec. `job`: the JSON with markers; `source`: the HCL it was made from."""

    stem: str
    job: dict[str, Any]
    source: str


class Paths(msgspec.Struct, frozen=True):
    """The three files of one jobspec."""

    hcl: Path
    json: Path
    sum: Path


def folder() -> Path:
    """Where the jobspecs lie.

    Beside the packages in a checkout; in `wahafleet_data/` beside them once installed from a wheel. Raises
    JobspecError when neither is there.
    """
    root = Path(__file__).resolve().parent.parent
    for candidate in (root / "wahafleet_data" / "jobspecs", root / "jobspecs"):
        if candidate.is_dir():
            return candidate
    raise JobspecError("the folder jobspecs/ is missing from this installation: install wahafleet again.")


def paths(stem: str) -> Paths:
    """The files of a jobspec, whether they exist or not."""
    base = folder()
    return Paths(base / f"{stem}.nomad.hcl", base / f"{stem}.nomad.json", base / f"{stem}.nomad.sum")


@functools.cache
def template(stem: str) -> Template:
    """Read a compiled jobspec once.

    Raises JobspecError when a file is missing or the JSON does not belong to the HCL.
    """
    problem = disagreement(stem)
    if problem is not None:
        raise JobspecError(problem)
    files = paths(stem)
    return Template(stem, json.loads(files.json.read_text("utf-8")), files.hcl.read_text("utf-8"))


def disagreement(stem: str) -> str | None:
    """One sentence when the compiled JSON does not belong to the HCL, None when it does."""
    files = paths(stem)
    missing = [path.name for path in (files.hcl, files.json, files.sum) if not path.is_file()]
    if missing:
        return (
            f"jobspecs/{missing[0]} is missing: run `wahafleet jobspec compile` with a Nomad agent at hand."
        )
    stated = {name: digest for _, digest, name, _ in _SUM_LINE.findall(files.sum.read_text("utf-8")) if name}
    for path in (files.hcl, files.json):
        if stated.get(path.name) != _sha256(path):
            return (
                f"jobspecs/{path.name} was changed after the last compile: run `wahafleet jobspec compile` "
                "with a Nomad agent at hand and commit what it writes."
            )
    return None


def compiled_with(stem: str) -> str | None:
    """The Nomad release that parsed the HCL, as the sum file says."""
    found = [version for *_, version in _SUM_LINE.findall(paths(stem).sum.read_text("utf-8")) if version]
    return found[0] if found else None


def write(stem: str, job: dict[str, Any], nomad_version: str) -> tuple[Path, Path]:
    """Write the compiled JSON and its sum file; the two paths."""
    files = paths(stem)
    files.json.write_text(json.dumps(job, indent=2, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")
    lines = [f"sha256:{_sha256(path)}  {path.name}" for path in (files.hcl, files.json)]
    files.sum.write_text("\n".join([*lines, f"nomad:{nomad_version}"]) + "\n", "utf-8")
    template.cache_clear()
    return files.json, files.sum


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
