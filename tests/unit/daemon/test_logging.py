"""Logs are JSON lines with constant messages, and never hold a secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
import structlog

from core.logging import HIDDEN, configure, direct, redact


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Logs of this test; the process's own set-up is put back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    chosen = structlog.get_config()
    written = io.StringIO()
    configure("daemon", stream=written)
    yield written
    structlog.configure(**chosen)
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_its_message_component_level_time_and_context(stream: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(reconcile="abc"):
        structlog.get_logger("x").warning("effect_failed", code="unavailable", took_s=0.5)
    (line,) = lines(stream)
    at = line.pop("at")
    assert isinstance(at, str)
    assert at.endswith("Z")
    assert line == {
        "message": "effect_failed",
        "component": "daemon",
        "level": "warning",
        "reconcile": "abc",
        "code": "unavailable",
        "took_s": 0.5,
    }


def test_a_line_of_every_request_is_as_all_others_are(stream: io.StringIO) -> None:
    fields = {"path": "/x/postgres://u:hunter2@db", "api_key": "s3cret", "status": 200, "user_id": None}
    with structlog.contextvars.bound_contextvars(request_id="abc"):
        structlog.get_logger("api").info("request", **fields)
        direct().info("request", **fields)
    usual, cheap = lines(stream)
    for line in (usual, cheap):
        at = line.pop("at")
        assert isinstance(at, str)
        assert datetime.fromisoformat(at).utcoffset() == timedelta(0)
        assert at.endswith("Z")
    assert cheap == usual
    assert (cheap["api_key"], cheap["request_id"]) == (HIDDEN, "abc")
    assert "hunter2" not in stream.getvalue()


def test_lines_below_the_level_are_not_written(stream: io.StringIO) -> None:
    configure("api", level=logging.WARNING, stream=stream)
    direct().info("request", status=200)
    assert stream.getvalue() == ""


def test_lines_of_libraries_go_the_same_way(stream: io.StringIO) -> None:
    logging.getLogger("some.library").error("broke with %s", "postgres://u:hunter2@db/x")
    (line,) = lines(stream)
    assert line["component"] == "daemon"
    assert "hunter2" not in json.dumps(line)
    assert line["level"] == "error"


def test_a_traceback_stands_in_its_line(stream: io.StringIO) -> None:
    try:
        int("odd")
    except ValueError:
        structlog.get_logger("x").exception("pass_broke")
    (line,) = lines(stream)
    assert "ValueError: invalid literal" in str(line["exception"])


@pytest.mark.parametrize(
    "name",
    [
        *("token", "api_key", "hook_key", "password", "secret", "NOMAD_TOKEN", "x-api-key", "X_Nomad_Token"),
        *("jwt_secret", "authorization", "cookie", "dsn", "storage_dsn", "database_url", "redis_url", "hmac"),
    ],
)
def test_secrets_are_hidden_by_name_at_any_depth(name: str) -> None:
    event = redact(None, "info", {name: "s3cret", "outer": [{name: "s3cret"}], "event": "x"})
    assert "s3cret" not in json.dumps(event)
    assert event[name] == HIDDEN


@pytest.mark.parametrize(
    "name", ["key", "user_id", "code", "lease_token", "monkey", "keys_waiting", "qrcodes"]
)
def test_plain_values_are_left_alone(name: str) -> None:
    assert redact(None, "info", {name: "shown"})[name] == "shown"


def test_credentials_in_addresses_are_hidden_wherever_they_stand() -> None:
    event = redact(None, "info", {"error": "no answer from redis://:pw@host:6379 and http://u:p@h/x"})
    assert event["error"] == "no answer from redis://***@host:6379 and http://***@h/x"
