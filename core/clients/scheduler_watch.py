"""News from Nomad's event stream: which users' jobs something happened to.

The stream is a hint and never the truth: its buffer holds 100 entries a server and a gap raises no error
(Nomad API docs, event stream). So every (re)connect first says `RELIST`, and whoever listens reads the world
again. python-nomad's own stream reader replays its buffer and cannot be cancelled, hence httpx.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator
from enum import Enum
from typing import Final

import httpx
import msgspec

from core.clients.scheduler_errors import SYSTEM, of_response
from core.domain.names import JOB_PREFIX, user_of_job
from core.errors import Unavailable
from core.settings import NomadSettings

# Nomad sends `{}` every 30 s; silence for longer means that the connection is dead.
HEARTBEAT_S: Final = 30.0
_TOPICS: Final = ("Job", "Allocation", "Evaluation")
# A frame holds all events of one Raft index, about 6 kB an allocation; a drain of a full host stays far below.
_FRAME_LIMIT_BYTES: Final = 32 * 1024 * 1024
_ALLOCATIONS_KEPT: Final = 20_000  # a few hundred bytes each


class Relist(Enum):
    """Something may have been missed: look at everything."""

    RELIST = "relist"


RELIST: Final = Relist.RELIST


class _Subject(msgspec.Struct, frozen=True):
    job_id: str | None = msgspec.field(name="JobID", default=None)
    id: str | None = msgspec.field(name="ID", default=None)


class _TaskEvent(msgspec.Struct, frozen=True):
    type: str = msgspec.field(name="Type", default="")
    time: int = msgspec.field(name="Time", default=0)


class _Task(msgspec.Struct, frozen=True):
    state: str | None = msgspec.field(name="State", default=None)
    restarts: int | None = msgspec.field(name="Restarts", default=None)
    events: list[_TaskEvent] | None = msgspec.field(name="Events", default=None)


class _Allocation(_Subject, frozen=True):
    """What passes read of an allocation and an event can change. Its deployment's health they do not read."""

    node_id: str | None = msgspec.field(name="NodeID", default=None)
    desired: str | None = msgspec.field(name="DesiredStatus", default=None)
    client: str | None = msgspec.field(name="ClientStatus", default=None)
    followup: str | None = msgspec.field(name="FollowupEvalID", default=None)
    tasks: dict[str, _Task] | None = msgspec.field(name="TaskStates", default=None)


class _Payload(msgspec.Struct, frozen=True):
    job: _Subject | None = msgspec.field(name="Job", default=None)
    allocation: _Allocation | None = msgspec.field(name="Allocation", default=None)
    evaluation: _Subject | None = msgspec.field(name="Evaluation", default=None)


class _Event(msgspec.Struct, frozen=True):
    topic: str = msgspec.field(name="Topic")
    key: str = msgspec.field(name="Key", default="")
    filter_keys: list[str] | None = msgspec.field(name="FilterKeys", default=None)
    payload: _Payload | None = msgspec.field(name="Payload", default=None)


class _Frame(msgspec.Struct, frozen=True):
    index: int = msgspec.field(name="Index", default=0)
    events: list[_Event] | None = msgspec.field(name="Events", default=None)


_decode_frame = msgspec.json.Decoder(_Frame).decode


class Heard:
    """What one stream said last of each allocation.

    Ten seconds after its start an allocation counts as healthy for its deployment, and that is an event like all
    others: without this each start costs a pass that finds nothing new.
    """

    def __init__(self) -> None:
        self._said: OrderedDict[str, _Allocation] = OrderedDict()

    def is_news(self, event: _Event) -> bool:
        """Whether it says more than the event before; True for whatever it cannot compare."""
        told = event.payload.allocation if event.payload is not None else None
        if told is None or not told.id or not told.client:
            return True
        before = self._said.pop(told.id, None)
        self._said[told.id] = told
        if len(self._said) > _ALLOCATIONS_KEPT:
            self._said.popitem(last=False)
        return told != before


def users_of(frame: bytes, after_index: int, heard: Heard | None = None) -> tuple[int, frozenset[str]]:
    """(newest index seen, our users that the frame has news of); an older frame names nobody.

    One index may come in several frames (Nomad 1.10.5 sends a register's Job and Evaluation apart), and
    resuming at an index delivers it again: a hint too many costs nothing.
    Raises msgspec.DecodeError for what is no frame.
    """
    parsed = _decode_frame(frame)
    if parsed.index < after_index:
        return after_index, frozenset()
    told = [event for event in parsed.events or () if heard is None or heard.is_news(event)]
    found = (user for event in told for user in _users(event))
    return parsed.index, frozenset(found)


def _users(event: _Event) -> set[str]:
    names = {event.key, *(event.filter_keys or ())}
    payload = event.payload or _Payload()
    for subject in (payload.job, payload.allocation, payload.evaluation):
        if subject is not None:
            names |= {name for name in (subject.job_id, subject.id) if name}
    return {user for user in map(user_of_job, names) if user is not None}


class JobWatch:
    """One event stream over all jobs of the namespace."""

    def __init__(self, settings: NomadSettings, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        headers = {"Accept-Encoding": "identity"}  # a compressed stream may be held back in its window
        if settings.token is not None:
            headers["X-Nomad-Token"] = settings.token.reveal()
        verify = ssl.create_default_context(cafile=settings.ca_file) if settings.ca_file else True
        silence_s = max(HEARTBEAT_S + 10.0, settings.watch_wait_s + 10.0)
        self._namespace = settings.namespace
        self._list_timeout_s = settings.timeout_s
        self._client = httpx.AsyncClient(
            base_url=settings.address,
            headers=headers,
            verify=verify,
            trust_env=False,
            timeout=httpx.Timeout(settings.timeout_s, read=silence_s),
            transport=transport,
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    async def news(self) -> AsyncIterator[frozenset[str] | Relist]:
        """One connection's news: `RELIST` first, then user ids as frames come, none for a heartbeat.

        Ends only by raising: Unavailable, Throttled, Rejected or Missing.
        """
        try:
            # The stream is opened before RELIST is said, so nothing falls between the two.
            index = await self._list_index()
            params = httpx.QueryParams({"namespace": self._namespace, "index": str(index)})
            for topic in _TOPICS:
                params = params.add("topic", topic)
            async with self._client.stream("GET", "/v1/event/stream", params=params) as response:
                if response.status_code != 200:
                    text = (await response.aread()).decode(errors="replace")
                    raise of_response(response.status_code, text, response.headers.get("Retry-After"))
                yield RELIST
                heard = Heard()
                async for frame in _lines(response):
                    index, users = users_of(frame, index, heard)
                    yield users
        except httpx.HTTPError as error:
            raise Unavailable(SYSTEM, f"event stream lost ({type(error).__name__})") from _bare(error)
        except msgspec.DecodeError as error:
            raise Unavailable(SYSTEM, "event stream sent what is no frame") from error
        raise Unavailable(SYSTEM, "event stream ended")

    async def _list_index(self) -> int:
        """Index of the newest change to any job: the cheapest list there is."""
        params = {"namespace": self._namespace, "prefix": JOB_PREFIX, "per_page": "1"}
        response = await self._client.get("/v1/jobs", params=params, timeout=self._list_timeout_s)
        if response.status_code != 200:
            raise of_response(response.status_code, response.text, response.headers.get("Retry-After"))
        try:
            return max(0, int(response.headers.get("X-Nomad-Index", "0")))
        except ValueError as error:
            raise Unavailable(SYSTEM, "a list without a readable index") from error


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Newline-separated frames; httpx's own line reader also splits at characters that JSON may hold."""
    buffer = bytearray()
    async for chunk in response.aiter_bytes():
        buffer += chunk
        if len(buffer) > _FRAME_LIMIT_BYTES:
            raise Unavailable(SYSTEM, "event stream sent an endless frame")
        *frames, rest = buffer.split(b"\n")
        buffer = bytearray(rest)
        for frame in frames:
            if frame.strip():
                yield bytes(frame)


def _bare(error: httpx.HTTPError) -> httpx.HTTPError:
    """The error without the request that carries our token."""
    error._request = None
    return error
