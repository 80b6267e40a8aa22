"""What one allocation uses and what it prints, as its node's agent tells it through any server.

Neither call blocks, and neither is cached: each is one request to the node (Nomad API docs, client), so they
are sent for as long as somebody looks and no longer.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from core.clients.scheduler import NomadScheduler
from core.clients.scheduler_errors import SYSTEM, of_client
from core.domain.log_lines import Piece
from core.domain.names import TASK_NAME
from core.errors import Missing, Unavailable

Stream: TypeAlias = Literal["stdout", "stderr"]
STREAMS: Final[tuple[Stream, ...]] = ("stdout", "stderr")
_FILE = re.compile(r"\.(?:stdout|stderr)\.(\d+)\Z")
# A node sends what was printed since the request too; a program that prints faster than that is not followed.
_ANSWER_BYTES: Final = 4 * 1024 * 1024


class Usage(msgspec.Struct, frozen=True):
    """One sample of a container.

    Attributes:
        cpu_percent: 100 = one core. memory_bytes: without what the kernel may take back at once.
        taken_ns: when, by the node's clock; a task that ended goes on showing its last sample (Nomad 1.10.5).
    """

    cpu_percent: float
    memory_bytes: int
    taken_ns: int


class LookInScheduler(Protocol):
    """Both raise Missing for an allocation or a log that is not there, Unavailable, Throttled or Rejected."""

    async def usage(self, allocation_id: str) -> Usage:
        """What its task uses at the moment. Raises Missing when none runs."""

    async def log(self, allocation_id: str, stream: Stream, most_bytes: int) -> tuple[Piece, ...]:
        """The last `most_bytes` of what its task printed, over the files that they stand in."""


class _Cpu(msgspec.Struct, frozen=True):
    percent: float = msgspec.field(name="Percent", default=0.0)


class _Memory(msgspec.Struct, frozen=True):
    rss: int = msgspec.field(name="RSS", default=0)
    usage: int = msgspec.field(name="Usage", default=0)
    cache: int = msgspec.field(name="Cache", default=0)


class _Used(msgspec.Struct, frozen=True):
    cpu: _Cpu | None = msgspec.field(name="CpuStats", default=None)
    memory: _Memory | None = msgspec.field(name="MemoryStats", default=None)


class _Task(msgspec.Struct, frozen=True):
    used: _Used | None = msgspec.field(name="ResourceUsage", default=None)
    taken_ns: int = msgspec.field(name="Timestamp", default=0)


class _Stats(msgspec.Struct, frozen=True):
    tasks: dict[str, _Task | None] | None = msgspec.field(name="Tasks", default=None)


class _Frame(msgspec.Struct, frozen=True):
    data: str = msgspec.field(name="Data", default="")
    file: str = msgspec.field(name="File", default="")
    offset: int = msgspec.field(name="Offset", default=0)


class NomadLookIns:
    """`LookInScheduler` over the connections of a `NomadScheduler`."""

    def __init__(self, scheduler: NomadScheduler) -> None:
        self._scheduler = scheduler

    async def usage(self, allocation_id: str) -> Usage:
        with of_client():
            answer = await self._scheduler.call("get", "client/allocation", allocation_id, "stats")
        return usage_of(answer.content)

    async def log(self, allocation_id: str, stream: Stream, most_bytes: int) -> tuple[Piece, ...]:
        params = {
            "task": TASK_NAME,
            "type": stream,
            "origin": "end",
            "offset": str(most_bytes),
            "follow": "false",
        }
        with of_client():
            answer = await self._scheduler.call("get", "client/fs/logs", allocation_id, params=params)
        if len(answer.content) > _ANSWER_BYTES:
            raise Unavailable(SYSTEM, "a log grows faster than it can be read", code="log_too_fast")
        return pieces_of(answer.text)


def usage_of(body: bytes) -> Usage:
    """Raises Missing when no task was measured yet, Unavailable for what does not have the agreed form."""
    try:
        tasks = msgspec.json.decode(body, type=_Stats).tasks or {}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unavailable(SYSTEM, "stats: the answer does not have the agreed form") from error
    task = tasks.get(TASK_NAME)
    if task is None or task.used is None or task.taken_ns <= 0:
        raise Missing(SYSTEM, "the task was not measured yet")
    memory = task.used.memory or _Memory()
    # Drivers measure one or the other; what counts towards the limit is what cannot be taken back.
    used = memory.rss or max(0, memory.usage - memory.cache)
    return Usage((task.used.cpu or _Cpu()).percent, used, task.taken_ns)


def pieces_of(body: str) -> tuple[Piece, ...]:
    """Frames `{Data, File, Offset}` one behind the other; `Offset` is where the data ends in its file.

    Raises Unavailable for anything else.
    """
    decoder, place, found = json.JSONDecoder(), 0, []
    body = body.strip()
    try:
        while place < len(body):
            raw, place = decoder.raw_decode(body, place)
            while place < len(body) and body[place].isspace():
                place += 1
            frame = msgspec.convert(raw, _Frame)
            number = _FILE.search(frame.file)
            data = base64.b64decode(frame.data, validate=True)
            if data and number is not None:
                found.append(Piece(int(number.group(1)), frame.offset - len(data), data))
    except (ValueError, msgspec.ValidationError) as error:
        raise Unavailable(SYSTEM, "logs: the answer does not have the agreed form") from error
    return tuple(found)
