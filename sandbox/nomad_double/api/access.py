"""Who may do what: tokens to rights, and the right that each path asks for (measured on Nomad 1.10.5).

Lists over all namespaces, and lists of variables, are not refused but shortened to what the token may see: a
token without rights gets an empty list of variables and no error.
"""

from __future__ import annotations

from sandbox.nomad_double.api.web import Request
from sandbox.nomad_double.errors import ApiError
from sandbox.nomad_double.model import Json
from sandbox.nomad_double.policy import Rights, parse_policy
from sandbox.nomad_double.settings import DoubleSettings
from sandbox.nomad_double.state import StateStore

DENIED = "Permission denied"
_OPEN = frozenset(
    {
        "/",
        "/v1/status/leader",
        "/v1/status/peers",
        "/v1/agent/health",
        "/v1/regions",
        "/v1/namespaces",
        "/v1/vars",
    }
)
_OWN = "/v1/double/"
_JOB_TOPICS = frozenset({"Job", "Allocation", "Evaluation", "Deployment", "Service"})
_AGENT_READS = {"/v1/agent/self": "agent", "/v1/agent/members": "node"}


class Access:
    """The tokens of one cluster. Without a management token there are no ACLs and everything is allowed."""

    def __init__(self, settings: DoubleSettings, state: StateStore) -> None:
        self._management = settings.token
        self._release = settings.release
        self._policies = {
            token: tuple(parse_policy(text) for text in texts) for token, texts in settings.tokens.items()
        }
        self._state = state

    def rights_of(self, request: Request) -> Rights:
        """What the request's token may do.

        Raises:
            ApiError: 403 for a token that nobody knows.
        """
        if not self._management:
            return Rights(management=True)
        token = _token(request)
        if not token:
            return Rights()
        if token == self._management:
            return Rights(management=True)
        if token in self._policies:
            return Rights(self._policies[token])
        # The stream says no in its own way.
        if request.path in _OPEN - {"/v1/namespaces", "/v1/vars"} or request.path == "/v1/event/stream":
            return Rights()
        # Most calls do not tell an unknown token from one that may not.
        told = request.path == "/v1/agent/self" and self._release < (2,)
        raise ApiError(403, "ACL token not found" if told else DENIED)

    def check(self, request: Request) -> None:
        """Refuse what the token may not do.

        Raises:
            ApiError: 403 `Permission denied`; some calls of an allocation answer 500 or 404 instead, as Nomad's do.
        """
        rights, path = request.rights, request.path
        if rights.management or path in _OPEN or path.startswith(_OWN):
            return
        if path.startswith("/v1/namespace/"):
            allowed = rights.any_in_namespace(path.removeprefix("/v1/namespace/"))
        elif path.startswith(("/v1/job", "/v1/validate/job")):
            allowed = self._job(request, rights)
        elif path.startswith("/v1/var/"):
            allowed = _variable(request, rights)
        elif path.startswith("/v1/node"):
            allowed = rights.on("node", "read" if request.method == "GET" else "write")
        elif path.startswith(("/v1/client/", "/v1/allocation/")):
            allowed = self._allocation(request, rights)
        elif path == "/v1/event/stream":
            allowed = True  # its handler asks `may_stream`
        elif path in _AGENT_READS:
            allowed = rights.on(_AGENT_READS[path], "read")
        elif path.startswith(("/v1/allocations", "/v1/evaluation", "/v1/deployment")):
            allowed = _listed(request, rights, "read-job")
        else:
            allowed = False
        if not allowed:
            raise ApiError(403, DENIED)

    def _job(self, request: Request, rights: Rights) -> bool:
        path, writes = request.path, request.method != "GET"
        if path == "/v1/jobs" and not writes:
            return _listed(request, rights, "list-jobs")
        if path == "/v1/jobs/statuses":
            return _listed(request, rights, "read-job")
        namespace = request.namespace
        if writes and not request.get("namespace"):
            namespace = _namespace_in(request)
        if path == "/v1/jobs/parse":
            return any(rights.in_namespace(namespace, c) for c in ("parse-job", "submit-job"))
        if path == "/v1/validate/job":
            return rights.in_namespace(namespace, "read-job")
        if path.endswith("/scale") and writes:
            return any(rights.in_namespace(namespace, c) for c in ("scale-job", "submit-job"))
        return rights.in_namespace(namespace, "submit-job" if writes else "read-job")

    def _allocation(self, request: Request, rights: Rights) -> bool:
        path = request.path
        alloc_id, _, action = (
            path.removeprefix("/v1/client/fs/logs/")
            .removeprefix("/v1/client/allocation/")
            .removeprefix("/v1/allocation/")
            .partition("/")
        )
        alloc = self._state.allocs.get(alloc_id)
        if alloc is None:
            return True  # the handler says that there is none
        capability = {"stop": "alloc-lifecycle", "restart": "alloc-lifecycle", "gc": "submit-job"}.get(
            action, "read-job"
        )
        if path.startswith("/v1/client/fs/logs/"):
            if not rights.in_namespace(alloc.namespace, "read-logs"):
                raise ApiError(500, DENIED)
            return True
        allowed = rights.in_namespace(alloc.namespace, capability)
        if not allowed and path == f"/v1/allocation/{alloc_id}":
            raise ApiError(500, f'Unknown allocation "{alloc_id}"')
        return allowed


def _token(request: Request) -> str:
    given = request.headers.get("x-nomad-token") or ""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    if not given and scheme.lower() == "bearer":
        given = bearer.strip()
    return given


def _listed(request: Request, rights: Rights, capability: str) -> bool:
    """A list of one namespace needs the right there; one of all namespaces is shortened instead."""
    return request.namespace == "*" or rights.in_namespace(request.namespace, capability)


def _variable(request: Request, rights: Rights) -> bool:
    path = request.path.removeprefix("/v1/var/")
    needed = {"GET": "read", "DELETE": "destroy"}.get(request.method, "write")
    return rights.on_variable(request.namespace, path, needed)


def may_stream(request: Request) -> bool:
    """May the token read every topic of an event stream that it asks for."""
    rights = request.rights
    if rights.management:
        return True
    topics = {topic.partition(":")[0] for topic in request.query.get("topic", ("*",))}
    for topic in topics:
        if topic in _JOB_TOPICS:
            allowed = rights.in_namespace(request.namespace, "read-job")
        else:
            allowed = topic == "Node" and rights.on("node", "read")
        if not allowed:
            return False
    return True


def _namespace_in(request: Request) -> str:
    """The namespace that the job of a write's body names."""
    body: Json = request.json() if request.body else {}
    job = body.get("Job")
    return str(job.get("Namespace") or "default") if isinstance(job, dict) else "default"
