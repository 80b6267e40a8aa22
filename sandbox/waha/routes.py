"""WAHA's HTTP surface over one simulator (paths, statuses and shapes: WAHA 2026.7.1 OpenAPI document)."""

from __future__ import annotations

import binascii

from sandbox.waha.bodies import error_response, plain_error, read_body, read_config, read_name, unauthorized
from sandbox.waha.hashing import sha512_hex
from sandbox.waha.refusals import (
    EngineError,
    InvalidBody,
    NotImplementedByEngine,
    Refusal,
    Unprocessable,
    WrongState,
)
from sandbox.waha.server import Response
from sandbox.waha.session import PASSKEY_CONFIRMATION_REQUIRED, PASSKEY_REQUIRED, SCAN_QR_CODE, PhoneRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandbox.waha.server import Request
    from sandbox.waha.simulator import WahaSimulator
    from sandbox.waha.timers import Steps


class Api:
    """Answers requests for one container. `on_stop(force)` is called when a client ends the server."""

    def __init__(self, simulator: WahaSimulator, on_stop: Callable[[bool], None]) -> None:
        self._simulator = simulator
        self._on_stop = on_stop

    def handle(self, request: Request, answer: Callable[[Response], None]) -> None:
        """A `Handler` for `Server`."""
        outcome = self._simulator.timers.spawn(self._respond(request))

        def finished() -> None:
            error = outcome.error
            if error is None:
                answer(outcome.value)
                return
            if isinstance(error, PhoneRefused):
                answer(Response.json(409, {"message": str(error), "error": "Conflict", "statusCode": 409}))
                return
            if not isinstance(error, Refusal):
                self._simulator.log.emit("request_failed", method=request.method, error=type(error).__name__)
            answer(error_response(error, request))

        outcome.watch(finished)

    def _respond(self, request: Request) -> Steps:
        failure = None
        if request.path.startswith("/api/") and self._has_key(request):
            failure = self._simulator.failures.take(request.method, request.path)
        if failure == "before":
            raise EngineError("told to fail before it begins")
        response = yield from self._answer(request)
        if failure == "after" and response.status < 400:
            raise EngineError("told to fail after it was done")
        return response

    def _answer(self, request: Request) -> Steps:
        parts = request.path.strip("/").split("/")
        method = request.method
        if parts == ["ping"] and method == "GET":
            return Response.json(200, {"message": "pong"})
        if parts[0] in ("api", "sim", "health", "ws") and not self._has_key(request):
            return unauthorized()
        response: Response | None = None
        if parts == ["health"] and method == "GET":
            response = self._health()
        elif parts[0] == "sim":
            # Loaded by its first use: a container that nobody plays with is smaller by it.
            from sandbox.waha import controls

            response = controls.handle(self._simulator, method, parts[1:], request)
        elif parts[:2] == ["api", "server"]:
            response = self._server(method, parts[2:], request)
        elif parts == ["api", "version"] and method == "GET":
            response = Response.json(200, self._simulator.environment())
        elif parts[:2] == ["api", "sessions"]:
            response = yield from self._sessions(method, parts[2:], request)
        elif len(parts) >= 4 and parts[0] == "api" and parts[2] == "auth":
            response = yield from self._auth(method, parts[1], parts[3:], request)
        if response is None:
            return plain_error(404, f"Cannot {method} {request.path}")
        return response

    def _has_key(self, request: Request) -> bool:
        settings = self._simulator.settings
        if not settings.auth_required:
            return True
        key = request.headers.get("x-api-key") or request.query.get("x-api-key") or ""
        return sha512_hex(key.encode()) == settings.key_digest

    def _health(self) -> Response:
        state = {"status": "up" if self._simulator.healthy else "down"}
        disks = {"mediaFiles.space": state, "sessionsFiles.space": state}
        if self._simulator.healthy:
            return Response.json(200, {"status": "ok", "info": disks, "error": {}, "details": disks})
        return Response.json(503, {"status": "error", "info": {}, "error": disks, "details": disks})

    def _server(self, method: str, rest: list[str], request: Request) -> Response | None:
        simulator = self._simulator
        if method == "GET" and rest == ["version"]:
            return Response.json(200, simulator.environment())
        if method == "GET" and rest == ["status"]:
            return Response.json(
                200,
                {
                    "startTimestamp": int(simulator.started_at * 1000),
                    "uptime": simulator.uptime_ms(),
                    "worker": {"id": simulator.settings.worker_id},
                },
            )
        if method == "GET" and rest == ["environment"]:
            return Response.json(200, simulator.settings.public_environment())
        if method == "POST" and rest == ["stop"]:
            force = read_body(request).get("force") is True
            simulator.timers.call_later(1.0, lambda: self._on_stop(force))
            return Response.json(201, {"stopping": True})
        return None

    def _sessions(self, method: str, rest: list[str], request: Request) -> Steps:
        simulator = self._simulator
        if not rest and method == "GET":
            everything = request.query.get("all", "").lower() in ("true", "1")
            return Response.json(200, simulator.list_sessions(all_sessions=everything))
        if not rest and method == "POST":
            body = read_body(request)
            start = body.get("start", simulator.settings.start_when_omitted)
            if not isinstance(start, bool):
                raise InvalidBody("start must be a boolean value")
            steps = simulator.create(read_name(body), read_config(body), _read_apps(body), start=start)
            return Response.json(201, (yield from steps))
        if len(rest) == 1 and method == "POST" and rest[0] in ("start", "stop", "logout"):
            return (yield from self._deprecated(rest[0], read_body(request)))
        if len(rest) == 1:
            return (yield from self._session(method, rest[0], request))
        if len(rest) == 2:
            return (yield from self._session_action(method, rest[0], rest[1]))
        return None

    def _session(self, method: str, name: str, request: Request) -> Steps:
        simulator = self._simulator
        if method == "GET":
            return Response.json(200, simulator.session(name))
        if method == "PUT":
            body = read_body(request)
            config = read_config(body)
            updated = yield from simulator.update(name, config or {}, _read_apps(body))
            return Response.json(200, updated)
        if method == "DELETE":
            yield from simulator.delete(name)
            return Response(200)
        return None

    def _session_action(self, method: str, name: str, action: str) -> Steps:
        simulator = self._simulator
        if method == "GET" and action == "me":
            return Response.json(200, simulator.me(name))
        if method != "POST":
            return None
        if action == "start":
            return Response.json(201, (yield from simulator.start(name)))
        if action == "stop":
            stopped = yield from simulator.stop(name)
            return Response(201) if stopped is None else Response.json(201, stopped)
        if action == "restart":
            return Response.json(201, (yield from simulator.restart(name)))
        if action == "logout":
            return Response.json(201, (yield from simulator.logout(name)))
        return None

    def _deprecated(self, action: str, body: dict[str, Any]) -> Steps:
        simulator = self._simulator
        name = read_name(body, required=True)
        if action == "start":
            return Response.json(201, (yield from simulator.start_upsert(name, read_config(body))))
        if action == "logout" or body.get("logout") is True:
            yield from simulator.delete(name)
        else:
            yield from simulator.stop(name)
        return Response(201)

    def _auth(self, method: str, name: str, rest: list[str], request: Request) -> Steps:
        simulator = self._simulator
        if rest == ["qr"] and method == "GET":
            return (yield from self._qr(name, request))
        if rest == ["request-code"] and method == "POST":
            body = read_body(request)
            number = body.get("phoneNumber")
            if not isinstance(number, str) or not number.isascii() or not number.isdigit():
                raise InvalidBody("phoneNumber must be a string of digits")
            if body.get("method"):
                raise Unprocessable("method must be left empty for web pairing")
            session = yield from simulator.await_status(name, SCAN_QR_CODE)
            return Response.json(201, {"code": session.request_code(number)})
        if rest[0] == "passkey":
            return self._passkey(method, name, rest[1:])
        return None

    def _qr(self, name: str, request: Request) -> Steps:
        shape = request.query.get("format", "image")
        if shape not in ("image", "raw"):
            raise InvalidBody("format must be one of the following values: image, raw")
        session = yield from self._simulator.await_status(name, SCAN_QR_CODE)
        value = session.qr_value
        assert value is not None
        if shape == "raw":
            return Response.json(200, {"value": value})
        image = session.qr_png()
        # WAHA compares the header as a whole: a list of types gets the image.
        if request.headers.get("accept") == "application/json":
            data = binascii.b2a_base64(image, newline=False).decode()
            return Response.json(200, {"mimetype": "image/png", "data": data})
        return Response(200, image, "image/png")

    def _passkey(self, method: str, name: str, rest: list[str]) -> Response | None:
        if self._simulator.settings.engine != "GOWS":
            raise NotImplementedByEngine("passkeys are handled by the engine GOWS only")
        session = self._simulator.find_running(name)
        status = session.status if session else None
        confirming = rest[:1] in (["confirmation"], ["confirm"])
        wanted = PASSKEY_CONFIRMATION_REQUIRED if confirming else PASSKEY_REQUIRED
        call = (method, *rest)
        if call not in (("GET", "challenge"), ("POST",), ("GET", "confirmation"), ("POST", "confirm")):
            return None
        if session is None or status != wanted:
            raise WrongState(name, status, (wanted,))
        if call == ("GET", "challenge"):
            return Response.json(200, session.passkey)
        if call == ("POST",):
            session.answer_passkey()
            return Response(201)
        if call == ("GET", "confirmation"):
            return Response.json(200, {"code": session.confirmation})
        session.confirm_passkey()
        return Response(201)


def _read_apps(body: dict[str, Any]) -> list[Any] | None:
    apps = body.get("apps")
    if apps is not None and not isinstance(apps, list):
        raise InvalidBody("apps must be an array")
    return apps
