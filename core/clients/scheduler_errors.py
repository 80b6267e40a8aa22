"""Nomad's refusals and failures as errors of this project.

Status codes as measured on Nomad: 400 for what its HTTP layer refuses, 403 for tokens, 404 for absent
things, 409 for variables, 429 for too many connections, and 500 text/plain for everything that its servers
refuse. In that last heap two texts are told apart, since nothing else distinguishes them: the conflict of
`EnforceIndex` (same words from 1.0 to 2.0) and a job that does not validate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import nomad
import requests

from core.errors import AppError, DependencyError, Missing, Rejected, StaleWrite, Throttled, Unavailable

SYSTEM = "nomad"
DEFAULT_PAUSE_S = 1.0

_CAS_CONFLICT = "Enforcing job modify index"
_NO_PATH = "No path to node"
_NOT_RUNNING = "Task not running"
_INVALID = re.compile(r"\b\d+ errors? occurred:")


def translated(error: Exception) -> AppError:
    """The error of this project for whatever python-nomad or requests raised; chain it to `error`.

    Takes the token and the body out of what `error` still refers to, so that nothing secret outlives
    the call in a chained exception.
    """
    _forget_requests(error)
    response = getattr(error, "nomad_resp", None)
    if isinstance(response, requests.Response):
        return of_response(response.status_code, response.text, response.headers.get("Retry-After"))
    if isinstance(error, (nomad.api.exceptions.BaseNomadException, requests.RequestException)):
        return Unavailable(SYSTEM, f"no answer ({_kind(error)})")
    return Unavailable(SYSTEM, f"the answer could not be read ({type(error).__name__})")


def of_response(status: int, text: str, retry_after: str | None = None) -> DependencyError:
    """The error for an answer with `status` outside 200-299."""
    said = f"{status} {text.strip()}"
    if status == 404:
        return Missing(SYSTEM, said)
    if status == 409 or (status == 500 and _CAS_CONFLICT in text):
        return StaleWrite(SYSTEM, said)
    if status == 429:
        return Throttled(SYSTEM, said, after_s=_seconds(retry_after))
    if status == 500 and _INVALID.search(text):
        return Rejected(SYSTEM, said)
    if 400 <= status < 500:
        return Rejected(SYSTEM, said)
    return Unavailable(SYSTEM, said)


@contextmanager
def of_client() -> Iterator[None]:
    """Around calls that a node's own agent answers, whose refusals mean something else than the servers' do.

    A node that nobody reaches is told as 404 `No path to node`, a task that does not run as 500 `Task not
    running` (Nomad 1.10.5).
    """
    try:
        yield
    except Missing as error:
        if _NO_PATH in error.message:
            raise Unavailable(SYSTEM, "no path to the node", code="no_path_to_node") from error
        raise
    except Unavailable as error:
        if _NOT_RUNNING in error.message:
            raise StaleWrite(SYSTEM, "the task does not run at this moment") from error
        raise


def _seconds(retry_after: str | None) -> float:
    """Retry-After in seconds; a date or nonsense counts as the default."""
    try:
        seconds = float(retry_after or DEFAULT_PAUSE_S)
    except ValueError:
        return DEFAULT_PAUSE_S
    return min(max(seconds, 0.0), 60.0) if seconds == seconds else DEFAULT_PAUSE_S  # NaN is unlike itself


def _kind(error: BaseException) -> str:
    """Name of the requests error inside, which says more than python-nomad's wrapping."""
    inner = getattr(error, "nomad_resp", None)
    return type(inner if isinstance(inner, BaseException) else error).__name__


def _forget_requests(error: BaseException) -> None:
    """Strip sent headers and bodies from every request that the chain of `error` refers to."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        item = waiting.pop()
        if item is None or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, requests.PreparedRequest):
            item.headers = requests.structures.CaseInsensitiveDict()
            item.body = None
        elif isinstance(item, requests.Response):
            waiting.append(item.request)
        elif isinstance(item, BaseException):
            waiting += [item.__cause__, item.__context__]
            waiting += [getattr(item, name, None) for name in ("nomad_resp", "request", "response")]
