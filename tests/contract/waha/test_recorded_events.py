"""tests/fixtures/waha_events/recorded is what a container says, byte for byte but for what each run makes anew.

With WAHAFLEET_RECORD_EVENTS=1 the recordings are written anew.
"""

from __future__ import annotations

import json
import os
from typing import Any

from tests.contract.waha.conftest import Containers, create, eventually, until, url_of
from tests.contract.waha.test_webhooks import Receiver, client, hook_env, receiver
from tests.fixtures.waha_events import RECORDED

__all__ = ["receiver"]
NAME = "chip_8a4f8f0e-52a5-4a9e-8f63-6f6c8d1f7b20"
HOOKS = {"WHATSAPP_HOOK_EVENTS": "session.status,message,message.any"}
_STATES = (
    "STARTING",
    "SCAN_QR_CODE",
    "PASSKEY_REQUIRED",
    "PASSKEY_CONFIRMATION_REQUIRED",
    "WORKING",
    "FAILED",
    "STOPPED",
)
_KINDS = {*(f"session.status-{state}" for state in _STATES), "message", "message.any"}


async def test_a_recording_is_what_a_container_says(start_container: Containers, receiver: Receiver) -> None:
    """A whole life: QR, passkey, paired, a message, unlinked on the phone, stopped."""
    async with client(url_of(start_container(**hook_env(receiver) | HOOKS))) as http:
        await create(http, NAME, config={"metadata": {"user": "42"}})
        await until(http, NAME, "SCAN_QR_CODE")
        await http.post(f"/sim/sessions/{NAME}/passkey", json={"confirmation": True})
        await until(http, NAME, "PASSKEY_REQUIRED")
        answered = await http.post(f"/api/{NAME}/auth/passkey", json={})
        assert answered.status_code < 300, answered.text
        await until(http, NAME, "PASSKEY_CONFIRMATION_REQUIRED")
        await http.post(f"/api/{NAME}/auth/passkey/confirm")
        await until(http, NAME, "WORKING")
        await http.post(f"/sim/sessions/{NAME}/activity", json={"body": "oi"})
        await http.post(f"/sim/sessions/{NAME}/unlink")
        await until(http, NAME, "FAILED")
        await http.post(f"/api/sessions/{NAME}/stop")

        async def heard_all() -> bool:
            return {_key(one.envelope) for one in receiver.received} >= _KINDS

        await eventually(heard_all)
    heard = {_key(one.envelope): one.raw for one in reversed(receiver.received)}
    if os.environ.get("WAHAFLEET_RECORD_EVENTS") == "1":
        for name, raw in heard.items():
            (RECORDED / f"{name}.json").write_bytes(raw)
    kept = {path.stem: json.loads(path.read_bytes()) for path in RECORDED.glob("*.json")}
    assert kept.keys() == heard.keys() == _KINDS
    for name, envelope in kept.items():
        assert _shape(json.loads(heard[name])) == _shape(envelope), name


def _key(envelope: dict[str, Any]) -> str:
    event = str(envelope["event"])
    return f"{event}-{envelope['payload']['status']}" if event == "session.status" else event


def _shape(value: Any) -> Any:
    """Names and kinds; numbers, ids and times are others in each run, and so is how many states came before."""
    if isinstance(value, dict):
        return {name: _shape(inner) for name, inner in value.items() if name != "statuses"}
    if isinstance(value, list):
        return [_shape(inner) for inner in value]
    return type(value).__name__
