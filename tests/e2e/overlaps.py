"""Moments when two processes ran for one user, read from the journal of the simulators and from Nomad.

`python -m tests.e2e.overlaps FOLDER` prints those of a store folder, `<data>/waha` in a sandbox.
"""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from sandbox.waha import journal


class Overlap(msgspec.Struct, frozen=True):
    """Two processes at one time. `what`: the WhatsApp session, or the task, that ran twice.

    `began`: seconds since 1970. `open`: both still ran when this was read.
    """

    what: str
    first: str
    second: str
    began: float
    seconds: float
    open: bool = False

    def __str__(self) -> str:
        still = " and still running" if self.open else ""
        return f"{self.what}: {self.first[:8]} and {self.second[:8]} for {self.seconds:.2f} s{still}"


def of_sessions(folder: Path, *, since: float = 0.0, until: float = float("inf")) -> list[Overlap]:
    """Sessions of one user in two processes, paired or not, at a moment between `since` and `until`.

    Read from what the simulators wrote themselves, not from any status of ours. A process that was killed
    counts until its last sign of life, at most `sandbox.waha.journal_file.BEAT_SECONDS` too little.
    """
    found = []
    for pair in journal.overlaps(folder, by="user", speaking=False):
        first, second = sorted((pair.first, pair.second), key=lambda interval: interval.since)
        began, ended = max(first.since, second.since), min(first.until, second.until)
        if ended > since and began < until:
            found.append(
                Overlap(
                    what=second.session,
                    first=first.allocation or first.process,
                    second=second.allocation or second.process,
                    began=began,
                    seconds=round(ended - began, 3),
                    open=first.open and second.open,
                )
            )
    return _joined(found)


def processes(folder: Path) -> list[str]:
    """Which of the processes that ran a session are alive at this moment, whether or not they still run one."""
    return [path.stem for path in sorted(Path(folder, "journal").glob("*.jsonl")) if _lives(path)]


def _joined(found: list[Overlap]) -> list[Overlap]:
    """The journal says when a session starts and when it speaks, which is one overlap and not two."""
    joined: list[Overlap] = []
    for one in sorted(
        found, key=lambda overlap: (overlap.first, overlap.second, overlap.what, overlap.began)
    ):
        last = joined[-1] if joined else None
        same = last is not None and (last.first, last.second, last.what) == (one.first, one.second, one.what)
        if last is not None and same and one.began - (last.began + last.seconds) < 0.01:
            seconds = round(max(last.began + last.seconds, one.began + one.seconds) - last.began, 3)
            joined[-1] = msgspec.structs.replace(last, seconds=seconds, open=last.open or one.open)
        else:
            joined.append(one)
    return sorted(joined, key=lambda overlap: overlap.began)


def _lives(path: Path) -> bool:
    """The writer of a journal holds its lock as long as it lives."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def of_tasks(allocations: Iterable[Mapping[str, Any]], *, now: float, since: float = 0.0) -> list[Overlap]:
    """Tasks of one job that ran at one time, by what Nomad's clients say of their start and end.

    `allocations`: of one job, as `/v1/job/<id>/allocations` lists them. A lost one counts until its client
    reported its end, or until `now`.
    """
    ran: list[tuple[float, float, bool, str, str]] = []
    for allocation in allocations:
        for name, state in (allocation["TaskStates"] or {}).items():
            begun, ended = _time(state["StartedAt"]), _time(state["FinishedAt"])
            if begun is not None:
                alive = ended is None or ended < begun
                ran.append((begun, now if ended is None or alive else ended, alive, allocation["ID"], name))
    ran.sort()
    found = []
    for position, (_, first_end, first_alive, first, _name) in enumerate(ran):
        for begun, ended, alive, second, name in ran[position + 1 :]:
            until = min(first_end, ended)
            if first != second and begun < until and until > since:
                both = first_alive and alive
                found.append(Overlap(name, first, second, begun, round(until - begun, 3), both))
    return found


def _time(text: str | None) -> float | None:
    """Seconds since 1970; None for Nomad's zero time."""
    if not text or text.startswith("0001-"):
        return None
    # Nomad tells nanoseconds, datetime takes microseconds.
    whole, dot, rest = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}{dot}{rest[:6].ljust(6, '0') if dot else ''}+00:00").timestamp()


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not Path(arguments[0], "journal").is_dir():
        sys.stderr.write("name one store folder, such as /var/tmp/wahafleet-1000/waha\n")
        return 2
    found = of_sessions(Path(arguments[0]))
    sys.stdout.writelines(f"{overlap}\n" for overlap in found)
    sys.stdout.write(f"{len(found)} overlap(s), {sum(overlap.seconds for overlap in found):.2f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
