"""Controls that only the simulator has: what a phone, WhatsApp or bad luck does to a container.

All are `POST /sim/...` with a JSON body and need the container's API key:
    /sim/sessions/{name}/scan      {"qr", "phone_number"?, "push_name"?}   the phone reads a QR
    /sim/sessions/{name}/pair      {"code", "push_name"?}                  the phone enters a pairing code
    /sim/sessions/{name}/unlink    {}                                      the phone removes the device
    /sim/sessions/{name}/ban       {}                                      WhatsApp bans the number
    /sim/sessions/{name}/drop      {"seconds"?: 2}                         WORKING -> STARTING -> WORKING
    /sim/sessions/{name}/passkey   {"confirmation"?: false}                WhatsApp asks for a passkey
    /sim/sessions/{name}/activity  {"from"?, "body"?}                      a message arrives
    /sim/sessions/{name}/deafen    {}                                      WORKING in name only until a restart
    /sim/sessions/{name}/faults    {"stuck_starting"?, "silent"?, "start_error"?, "hang_seconds"?,
                                    "stop_seconds"?, "keep"?: false}       what goes wrong from now on
    /sim/faults                    the same for every session without faults of its own
    /sim/errors                    {"count", "method"?, "path"?, "after"?: false}    next calls answer 500
    /sim/webhooks                  {"count", "what": drop|duplicate|delay, "seconds"?: 2}  of the next events
    /sim/health                    {"healthy": bool}                       low disk: /health says 503
Faults end with the container; with `keep` those of a session also meet every later container, until they are
set again without it or the session is deleted.
Two containers on one store need no control: the sessions of one phone disturb each other by themselves.
A refusal is 409 with one sentence that says what to do instead.
"""

from __future__ import annotations

import os
import time

from sandbox.waha.bodies import read_body
from sandbox.waha.faults import Faults
from sandbox.waha.refusals import InvalidBody, NotFound
from sandbox.waha.server import Response
from sandbox.waha.session import PhoneRefused, new_phone_number
from sandbox.waha.store import BANNED, UNLINKED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox.waha.server import Request
    from sandbox.waha.simulator import WahaSimulator


def handle(simulator: WahaSimulator, method: str, parts: list[str], request: Request) -> Response | None:
    """None when there is no such control."""
    if method != "POST":
        return None
    body = read_body(request)
    if parts == ["health"]:
        simulator.healthy = body.get("healthy") is not False
        return Response.json(201, {"healthy": simulator.healthy})
    if parts == ["faults"]:
        simulator.set_faults("*", _read_faults(body))
        return Response.json(201, _read_faults(body).to_json())
    if parts == ["errors"]:
        simulator.failures.plan(
            _count(body),
            _text(body, "method", ""),
            _text(body, "path", ""),
            after=body.get("after") is True,
        )
        return Response.json(201, {})
    if parts == ["webhooks"]:
        what = _text(body, "what")
        if what not in ("drop", "duplicate", "delay"):
            raise InvalidBody("what must be one of drop, duplicate, delay")
        simulator.outbox.plan_accidents(what, _count(body), _seconds(body, "seconds", 2.0))
        return Response.json(201, {})
    if len(parts) != 3 or parts[0] != "sessions":
        return None
    _, name, control = parts
    if simulator.store.load(name) is None:
        raise NotFound(f"session {name} does not exist")
    if control in ("unlink", "ban"):
        _unlink(simulator, name, BANNED if control == "ban" else UNLINKED)
        return Response.json(201, simulator.session(name))
    if control == "faults":
        faults = _read_faults(body)
        simulator.set_faults(name, faults)
        if body.get("keep") is True:
            simulator.store.save_faults(name, faults.to_json())
        else:
            simulator.store.remove_faults(name)
        return Response.json(201, simulator.session(name))
    session = simulator.find_running(name)
    if session is None:
        raise PhoneRefused(f"session {name} is STOPPED; start it first")
    if control == "scan":
        session.scan(
            _text(body, "qr"),
            _text(body, "phone_number", new_phone_number()).lstrip("+"),
            _text(body, "push_name", "Telefone de teste"),
        )
    elif control == "pair":
        session.enter_code(_text(body, "code"), _text(body, "push_name", "Telefone de teste"))
    elif control == "deafen":
        session.deafen()
    elif control == "drop":
        session.drop(_seconds(body, "seconds", 2.0))
    elif control == "passkey":
        session.require_passkey(confirmation=body.get("confirmation") is True)
    elif control == "activity":
        _message(simulator, name, body)
    else:
        return None
    return Response.json(201, simulator.session(name))


def _unlink(simulator: WahaSimulator, name: str, state: str) -> None:
    auth = simulator.store.auth(name)
    if auth is None:
        raise PhoneRefused(f"session {name} is paired with no phone; scan its QR first")
    # Stored first: a container that does not run learns it when it next connects.
    simulator.store.save_auth(name, {**auth, "state": state})
    session = simulator.find_running(name)
    if session is not None:
        session.unlink(state)


def _message(simulator: WahaSimulator, name: str, body: dict[str, Any]) -> None:
    session = simulator.find_running(name)
    if session is None or not session.show_life():
        raise PhoneRefused(f"session {name} hears nothing: it is not WORKING, or made silent")
    sender = _text(body, "from", f"{new_phone_number()}@c.us")
    me = simulator.session(name)["me"]
    payload = {
        "id": f"false_{sender}_{os.urandom(8).hex().upper()}",
        "timestamp": int(time.time()),
        "from": sender,
        "to": me["id"],
        "fromMe": False,
        "source": "app",
        "body": _text(body, "body", "Olá"),
        "hasMedia": False,
        "media": None,
        "ack": 1,
        "ackName": "SERVER",
    }
    for event in ("message", "message.any"):
        simulator.emit(name, event, payload)


def _read_faults(body: dict[str, Any]) -> Faults:
    return Faults(
        stuck_starting=body.get("stuck_starting") is True,
        silent=body.get("silent") is True,
        start_error=body.get("start_error") is True,
        hang_seconds=_seconds(body, "hang_seconds", 0.0),
        stop_seconds=_seconds(body, "stop_seconds", 0.0),
    )


def _count(body: dict[str, Any]) -> int:
    count = body.get("count")
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 1000:
        raise InvalidBody("count must be a number from 0 to 1000")
    return count


def _text(body: dict[str, Any], field: str, default: str | None = None) -> str:
    value = body.get(field)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or not value:
        raise InvalidBody(f"{field} must be a string")
    return value


def _seconds(body: dict[str, Any], field: str, default: float) -> float:
    value = body.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise InvalidBody(f"{field} must be a number of seconds")
    return float(value)
