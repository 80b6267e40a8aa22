"""Paths of keys, sessions and transactions."""

from __future__ import annotations

import msgspec

from sandbox.consul_double import txn
from sandbox.consul_double.catalog import Json
from sandbox.consul_double.double import ConsulDouble
from sandbox.consul_double.http import App, Reply, Request, Route
from sandbox.consul_double.refusal import RefusalError


class KeyRoutes:
    def __init__(self, double: ConsulDouble, app: App) -> None:
        self._double = double
        self._app = app

    def routes(self) -> list[Route]:
        get, put = ("GET",), ("PUT",)
        return [
            ("/v1/kv/", ("GET", "PUT", "DELETE"), self.kv),
            ("/v1/session/create", put, self.create_session),
            ("/v1/session/destroy/", put, self.destroy_session),
            ("/v1/session/renew/", put, self.renew_session),
            ("/v1/session/info/", get, self.session),
            ("/v1/session/list", get, self.sessions),
            ("/v1/session/node/", get, self.node_sessions),
            ("/v1/txn", put, self.txn),
        ]

    async def kv(self, request: Request) -> Reply:
        key = request.argument
        if request.method == "GET":
            return await self._read_key(request)
        store = self._double.kv
        if request.method == "DELETE":
            if not key and not request.has("recurse"):
                raise RefusalError(400, "Missing key name")
            cas = _number(request, "cas") if request.has("cas") else None
            return Reply(store.delete(key, cas=cas, recurse=request.has("recurse")))
        if not key:
            raise RefusalError(400, "Missing key name")
        given = [word for word in ("acquire", "cas", "release") if request.has(word)]
        if len(given) > 1:
            listed = "&".join(f"{word}={request.get(word)}" for word in given)
            raise RefusalError(400, f"Conflicting flags: {listed}")
        flags = _number(request, "flags")
        if request.has("acquire"):
            return Reply(store.acquire(key, request.body, flags, request.get("acquire")))
        if request.has("release"):
            return Reply(store.release(key, request.body, flags, request.get("release")))
        return Reply(
            store.put(key, request.body, flags, cas=_number(request, "cas") if request.has("cas") else None)
        )

    async def _read_key(self, request: Request) -> Reply:
        key = request.argument
        store = self._double.kv
        if request.has("keys"):

            def names() -> tuple[int, list[str] | None]:
                index, entries = store.tree(key)
                listed = [entry.key for entry in entries]
                if separator := request.get("separator"):
                    listed = list(dict.fromkeys(_up_to(name, key, separator) for name in listed))
                return index, listed if listed or not key else None

            return await self._app.blocking(request, names)
        if request.has("recurse"):

            def tree() -> tuple[int, list[Json] | None]:
                index, entries = store.tree(key)
                return index, [entry.view() for entry in entries] or None

            return await self._app.blocking(request, tree)
        if not key:
            raise RefusalError(400, "Missing key name")

        def one() -> tuple[int, list[Json] | None]:
            index, entry = store.get(key)
            return index, None if entry is None else [entry.view()]

        reply = await self._app.blocking(request, one)
        entry = store.get(key)[1]
        if request.has("raw") and reply.status == 200 and entry is not None:
            return msgspec.structs.replace(reply, raw=entry.value, content_type="text/plain")
        return reply

    async def create_session(self, request: Request) -> Reply:
        body = request.json() if request.body else {}
        if not isinstance(body, dict):
            raise RefusalError(400, "Request decode failed: json: cannot unmarshal the body into a Go struct")
        return Reply({"ID": self._double.kv.create_session(body)})

    async def destroy_session(self, request: Request) -> Reply:
        session_id = request.argument
        self._double.kv.destroy_session(session_id)
        return Reply(True)

    async def renew_session(self, request: Request) -> Reply:
        session_id = request.argument
        session = self._double.kv.renew_session(session_id)
        if session is None:
            raise RefusalError(404, f"Session id '{session_id}' not found")
        return Reply([session.view()])

    async def session(self, request: Request) -> Reply:
        session_id = request.argument
        return await self._sessions(request, session_id)

    async def sessions(self, request: Request) -> Reply:
        return await self._sessions(request, None)

    async def node_sessions(self, request: Request) -> Reply:
        node = request.argument
        reply = await self._sessions(request, None)
        return reply if node == self._double.catalog.node.name else msgspec.structs.replace(reply, value=[])

    async def _sessions(self, request: Request, session_id: str | None) -> Reply:
        def look() -> tuple[int, list[Json]]:
            index, found = self._double.kv.sessions(session_id)
            return index, [session.view() for session in found]

        return await self._app.blocking(request, look)

    async def txn(self, request: Request) -> Reply:
        status, reply = txn.run(self._double.kv, request.json(otherwise="Failed to parse body"))
        return Reply(reply, status=status)


def _number(request: Request, name: str) -> int:
    text = request.get(name) or "0"
    if not text.isdecimal():
        raise RefusalError(500, f'strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


def _up_to(name: str, prefix: str, separator: str) -> str:
    at = name.find(separator, len(prefix))
    return name if at < 0 else name[: at + len(separator)]
