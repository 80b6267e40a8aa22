"""The derived state of a job: its status and the counts of its summary (state store of Nomad 1.10.5)."""

from __future__ import annotations

from collections.abc import Iterable

from sandbox.nomad_double.model import Allocation, Evaluation, Json

_COUNTS = ("Queued", "Complete", "Failed", "Running", "Starting", "Lost", "Unknown")
_BIN = {
    "pending": "Starting",
    "running": "Running",
    "complete": "Complete",
    "failed": "Failed",
    "lost": "Lost",
    "unknown": "Unknown",
}
_FINAL = frozenset({"complete", "failed"})


def job_status(job: Json, allocs: Iterable[Allocation], evals: Iterable[Evaluation]) -> str:
    """Running while an allocation is not terminal, pending while an evaluation is open, else dead."""
    if any(not alloc.terminal for alloc in allocs):
        return "running"
    evals = list(evals)
    if any(not evaluation.terminal for evaluation in evals):
        return "pending"
    return "dead" if evals or job["Stop"] else "pending"


def new_summary(job: Json, index: int) -> Json:
    return {
        "JobID": job["ID"],
        "Namespace": job["Namespace"],
        "Summary": {group["Name"]: dict.fromkeys(_COUNTS, 0) for group in job["TaskGroups"]},
        "Children": {"Pending": 0, "Running": 0, "Dead": 0},
        "CreateIndex": index,
        "ModifyIndex": index,
    }


def with_groups(summary: Json, job: Json, index: int) -> Json:
    """The summary after a new spec: groups that appeared count from zero."""
    missing = [g["Name"] for g in job["TaskGroups"] if g["Name"] not in summary["Summary"]]
    if not missing:
        return summary
    groups = {**summary["Summary"], **{name: dict.fromkeys(_COUNTS, 0) for name in missing}}
    return {**summary, "Summary": groups, "ModifyIndex": index}


def count_alloc(summary: Json | None, new: Allocation, old: Allocation | None, index: int) -> Json | None:
    """The summary after an allocation went from `old` to `new`; None when it does not change.

    Allocations of an earlier incarnation of the job (another CreateIndex) are not counted.
    """
    if summary is None or summary["CreateIndex"] != new.job["CreateIndex"]:
        return None
    if old is not None and old.client_status == new.client_status:
        return None
    counts = dict(summary["Summary"].get(new.task_group) or dict.fromkeys(_COUNTS, 0))
    counts[_BIN[new.client_status]] += 1
    if old is None:
        counts["Queued"] = max(0, counts["Queued"] - 1)
    elif old.client_status not in _FINAL:
        left = _BIN[old.client_status]
        counts[left] = max(0, counts[left] - 1)
    return {**summary, "Summary": {**summary["Summary"], new.task_group: counts}, "ModifyIndex": index}
