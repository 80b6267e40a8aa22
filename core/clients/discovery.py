"""Service discovery: which instances of the containers' service there are, and are they passing.

Reads go through the library `consul` (py-consul; why, and what python-consul lacks, is told in
docs/decisions/0001-consul-library.md). It is synchronous, so calls run on a small thread pool of their own.
The watch is read with httpx: a blocking query in a thread cannot be cancelled.

Consul is observed and never believed alone: after a host dies it may list two passing instances of one
user. The caller matches `allocation_id` against what Nomad says (measured on Consul 1.8.7).
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import random
import re
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import quote, urlsplit

import consul
import httpx
import requests
import structlog

from core.clients.discovery_entries import META_USER, SYSTEM, Listed, nodes_with, seen, told
from core.clock import Clock, SystemClock
from core.domain.facts import ServiceInstance
from core.errors import BODY_LIMIT, DependencyError, Missing, Rejected, Throttled, Unavailable
from core.settings import ConsulSettings

T = TypeVar("T")

SERVICE: Final = "waha-plus"

_THREADS: Final = 4
# Between the starts of two queries: an index that runs must not spin us.
_QUERY_PAUSE_S: Final = 0.1
# Each answer holds the whole fleet, and in a storm there is a change in each. So reading them takes this share of
# the time at most: what it takes grows with the fleet, and the answers that a longer pause saves do too.
_READING_SHARE: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_BACKOFF_FIRST_S: Final = 0.2
_BACKOFF_CAP_S: Final = 5.0
_THROTTLED_S: Final = 1.0
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")

_log = structlog.get_logger(__name__)


class Discovery(Protocol):
    """The role: where the instances of the containers' service are."""

    async def instances(self, user_id: str | None = None) -> tuple[ServiceInstance, ...]:
        """All instances, passing or not, of one user or of everybody.

        Raises DependencyError (Unavailable, Throttled, Rejected or Missing) and nothing else.
        """

    def watch(self) -> AsyncIterator[tuple[ServiceInstance, ...]]:
        """Everybody's instances: now, whenever they change, and unchanged as a sign of life when they did not
        for a while. Never ends, never raises: while Consul is away it tries again, and after each reconnect
        it gives the whole list once more."""


class _ThreadsOwn(threading.local):
    client: consul.Consul | None = None


class ConsulDiscovery:
    """`Discovery` on a Consul agent's HTTP API.

    Args:
        settings: where the agent is; `timeout_s` bounds each read, `watch_wait_s` is how long a quiet
            blocking query is held.
        service: name of the service in Consul.
    """

    def __init__(
        self, settings: ConsulSettings, *, service: str = SERVICE, clock: Clock | None = None
    ) -> None:
        self._settings = settings
        self._service = service
        self._clock = clock or SystemClock()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="consul")
        self._own = _ThreadsOwn()
        # Keywords that python-consul does not know are given to its successor alone.
        self._newer_library = _installed("py-consul")
        self._filtered_by_acl = False

    async def instances(self, user_id: str | None = None) -> tuple[ServiceInstance, ...]:
        newer: dict[str, Any] = {}
        if user_id is not None and self._newer_library and _PLAIN_ID.match(user_id):
            newer["filter_expr"] = f'Service.Meta.{META_USER} == "{user_id}"'
        _, entries = await self._call(lambda client: client.health.service(self._service, **newer))
        found = seen(entries) if user_id is None else told(entries)
        return found if user_id is None else tuple(one for one in found if one.user_id == user_id)

    async def deregister(self, service_id: str) -> None:
        """Take an instance out of the catalog; no error when it is gone already.

        For what an agent left behind that is gone or has forgotten it: a living agent that still holds the
        service puts it back within its next synchronisation (Consul docs, anti-entropy). Raises as
        `instances`; with ACLs the token needs service:write.
        """
        _, entries = await self._call(lambda client: client.health.service(self._service))
        for node in nodes_with(entries, service_id):
            await self._call(lambda client, node=node: client.catalog.deregister(node, service_id=service_id))  # type: ignore[misc]

    async def leader(self) -> str:
        """Address of the cluster's leader, "" when there is none. For health reports."""
        found = await self._call(lambda client: client.status.leader())
        return str(found or "")

    async def watch(self) -> AsyncGenerator[tuple[ServiceInstance, ...], None]:
        failures = 0
        async with self._watch_client() as client:
            while True:
                try:
                    async for found in self._blocking_queries(client):
                        if failures:
                            _log.info("consul_watch_resumed", failures=failures)
                            failures = 0
                        yield found
                except DependencyError as error:
                    if failures == 0:
                        _log.warning("consul_watch_interrupted", code=error.code, error=error.message)
                    pause_s = min(_BACKOFF_CAP_S, _BACKOFF_FIRST_S * 2 ** min(failures, 10))
                    failures += 1
                    if isinstance(error, Throttled):
                        pause_s = max(pause_s, error.after_s)
                    # Spread, so that replicas do not return to a restarted agent in one instant.
                    await self._clock.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311

    async def close(self) -> None:
        """Give the threads back. Calls that still run end by their own timeout."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _blocking_queries(
        self, client: httpx.AsyncClient
    ) -> AsyncIterator[tuple[ServiceInstance, ...]]:
        """One unbroken run of queries: the list at once, then with each answer.

        The index rules are those of Consul's documentation of blocking queries.
        """
        index, listed = 0, Listed()
        wait_ms = round(self._settings.watch_wait_s * 1000)
        while True:
            asked_at = self._clock.monotonic()
            params = {"index": str(index), "wait": f"{wait_ms}ms"} if index else {}
            path = f"/v1/health/service/{quote(self._service)}"
            response, came_at = await self._get(client, path, params)
            found = listed.read(response.content)
            self._note_acl(response)
            index = next_index(index, response.headers.get("X-Consul-Index"))
            yield found
            now = self._clock.monotonic()
            rest_s = max(asked_at + _QUERY_PAUSE_S - now, _rest_s(now - came_at))
            if rest_s > 0:
                await self._clock.sleep(rest_s)

    def _watch_client(self) -> httpx.AsyncClient:
        token = self._settings.token
        wait_s = self._settings.watch_wait_s
        timeout_s = self._settings.timeout_s
        return httpx.AsyncClient(
            base_url=self._settings.address,
            headers={} if token is None else {"X-Consul-Token": token.reveal()},
            # An answer comes after the wait plus at most a sixteenth of it.
            timeout=httpx.Timeout(timeout_s, read=wait_s + wait_s / 16 + timeout_s),
            verify=_tls(self._settings.ca_file),
            trust_env=False,
        )

    async def _get(
        self, client: httpx.AsyncClient, path: str, params: dict[str, str]
    ) -> tuple[httpx.Response, float]:
        """The answer, wholly read, and when it began to come."""
        try:
            async with client.stream("GET", path, params=params) as response:
                came_at = self._clock.monotonic()
                await response.aread()
        except httpx.TimeoutException as error:
            raise Unavailable(SYSTEM, "no answer in time", code="timeout") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Unavailable(SYSTEM, f"no connection ({type(error).__name__})") from error
        if response.is_success:
            return response, came_at
        raise _refusal(response.status_code, response.text, response.headers.get("Retry-After"))

    async def _call(self, read: Callable[[consul.Consul], T]) -> T:
        """Run one library call on a thread, with every error of it translated."""
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads, self._translated, read)
        except RuntimeError as error:  # the pool was closed
            raise Unavailable(SYSTEM, "this client is closed") from error
        try:
            # The library bounds each read of the socket; this bounds the whole, queueing for a thread too.
            async with asyncio.timeout(self._settings.timeout_s * 2):
                return await future
        except TimeoutError as error:
            raise Unavailable(SYSTEM, "no answer in time", code="timeout") from error

    def _translated(self, read: Callable[[consul.Consul], T]) -> T:
        try:
            return read(self._client())
        except requests.Timeout as error:
            raise Unavailable(SYSTEM, "no answer in time", code="timeout") from error
        except (requests.RequestException, OSError) as error:
            raise Unavailable(SYSTEM, f"no connection ({type(error).__name__})") from error
        except consul.ACLPermissionDenied as error:
            raise _refusal(403, str(error)) from error
        except consul.ACLDisabled as error:
            raise _refusal(401, str(error)) from error
        except consul.NotFound as error:
            raise _refusal(404, str(error)) from error
        except consul.ConsulException as error:
            code, _, body = str(error).partition(" ")
            if code.isdigit():
                raise _refusal(int(code), body) from error
            raise Unavailable(SYSTEM, "the answer could not be read", code="malformed") from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            # What the library raises by accident on an answer that is not what it expects.
            raise Unavailable(SYSTEM, "the answer could not be read", code="malformed") from error

    def _client(self) -> consul.Consul:
        """This thread's own client: the sessions of requests are not safe to share."""
        if self._own.client is not None:
            return self._own.client
        parts = urlsplit(self._settings.address)
        newer: dict[str, Any] = (
            {"connections_timeout": self._settings.timeout_s} if self._newer_library else {}
        )
        token = self._settings.token
        client = consul.Consul(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or (443 if parts.scheme == "https" else 80),
            token=None if token is None else token.reveal(),
            scheme=parts.scheme,
            verify=self._settings.ca_file or True,
            **newer,
        )
        # The agent stands beside us: no proxy that the environment names for the outer world.
        client.http.session.trust_env = False
        self._own.client = client
        return client

    def _note_acl(self, response: httpx.Response) -> None:
        # A token without node:read or service:read makes the list silently empty (header since Consul 1.11).
        filtered = response.headers.get("X-Consul-Results-Filtered-By-ACLs") == "true"
        if filtered and not self._filtered_by_acl:
            _log.warning("consul_results_filtered", service=self._service)
        self._filtered_by_acl = filtered


def next_index(sent: int, header: str | None) -> int:
    """The index to send next, 0 for "answer at once".

    Consul documentation, blocking queries: an index that goes backwards starts over, and 0 is never sent
    back as it would not block. Raises Unavailable when the header is not a number.
    """
    try:
        index = int(header or "")
    except ValueError as error:
        raise Unavailable(SYSTEM, "the answer has no index", code="malformed") from error
    if index < sent:
        return 0
    return max(1, index)


def _rest_s(read_s: float) -> float:
    """How long to let changes gather after an answer whose reading took `read_s`."""
    return min(_LONGEST_PAUSE_S, read_s * (1 / _READING_SHARE - 1))


def _refusal(status: int, body: str, retry_after: str | None = None) -> DependencyError:
    text = f"{status} {body.strip()[:BODY_LIMIT]}".strip()
    if status == 404:
        return Missing(SYSTEM, text)
    if status == 429:
        after_s = float(retry_after) if retry_after and retry_after.isdigit() else _THROTTLED_S
        return Throttled(SYSTEM, text, after_s=after_s)
    if status in (401, 403):
        return Rejected(SYSTEM, text, code="forbidden")
    if 400 <= status < 500:
        return Rejected(SYSTEM, text)
    return Unavailable(SYSTEM, text)


def _tls(ca_file: str | None) -> Any:
    if ca_file is None:
        return True
    import ssl

    return ssl.create_default_context(cafile=ca_file)


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
