"""Logs: one JSON object a line on standard error, a constant message with key-values.

What must never be written is taken out here, by name, whoever logs it: tokens, keys, passwords, and the
user-info part of addresses.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec
import structlog

HIDDEN: Final = "***"
_SECRET_NAME: Final = re.compile(
    r"(^|_)(token|secret|password|passwd|api_?key|hook_?key|secret_?keys?|private_?key|credential|credentials"
    r"|authorization|cookie|dsn|hmac|qr|database_url|redis_url)$",
    re.IGNORECASE,
)
# A lease's token is a counter, and "code" is an error's name: neither is a secret.
_NOT_SECRET: Final = frozenset({"lease_token"})
_USER_INFO: Final = re.compile(r"(\w+://)[^/\s@]+@")

Event = MutableMapping[str, Any]

_direct: dict[str, Any] = {}


def redact(_logger: Any, _method: str, event: Event) -> Event:
    """structlog processor: hide values whose name says that they are secret, at any depth."""
    for name, value in event.items():
        event[name] = _clean(name, value)
    return event


@lru_cache(1024)
def _is_secret(name: str) -> bool:
    spoken = name.replace("-", "_")
    return bool(_SECRET_NAME.search(spoken)) and spoken not in _NOT_SECRET


def _clean(name: str, value: Any) -> Any:
    if value is not None and _is_secret(name):
        return HIDDEN
    if isinstance(value, str):
        return _USER_INFO.sub(rf"\1{HIDDEN}@", value) if "://" in value else value
    if isinstance(value, dict):
        return {key: _clean(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean("", inner) for inner in value]
    return value


def configure(component: str, *, level: int = logging.INFO, stream: Any = None) -> None:
    """Send all logs of this process, those of libraries too, through one pipeline.

    `component` names the part (`api`, `daemon`, ...) in every line. May be called again.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        _named(component),
        structlog.processors.format_exc_info,
        redact,
    ]
    factory = structlog.stdlib.LoggerFactory()
    structlog.configure(
        processors=[*shared[:-2], structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=factory,
        cache_logger_on_first_use=False,
    )
    stream = stream or sys.stderr
    _direct.update(factory=factory, logger=_Lines(component, level, stream))
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared[:-2],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,
                structlog.processors.EventRenamer("message"),
                _rendered,
            ],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    # These tell each request with its address at INFO: noise, and queries do not belong in logs.
    for chatty in ("httpx", "httpcore", "urllib3", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class _Lines:
    """What `direct` gives: one dict, made clean and written, instead of a chain of processors."""

    __slots__ = ("_component", "_fields", "_level", "_stream")

    def __init__(
        self, component: str, level: int, stream: Any, fields: Mapping[str, Any] | None = None
    ) -> None:
        self._component = component
        self._level = level
        self._stream = stream
        self._fields = fields or {}

    def bind(self, **fields: Any) -> _Lines:
        return _Lines(self._component, self._level, self._stream, {**self._fields, **fields})

    def debug(self, message: str, **fields: Any) -> None:
        if self._level <= logging.DEBUG:
            self._write("debug", message, fields)

    def info(self, message: str, **fields: Any) -> None:
        if self._level <= logging.INFO:
            self._write("info", message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        if self._level <= logging.WARNING:
            self._write("warning", message, fields)

    def _write(self, level: str, message: str, fields: Mapping[str, Any]) -> None:
        event: Event = {
            **structlog.contextvars.get_contextvars(),
            **self._fields,
            **fields,
            "level": level,
            "at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        }
        event.setdefault("component", self._component)
        event["message"] = message
        self._stream.write(_rendered(None, level, redact(None, level, event)) + "\n")
        self._stream.flush()


def direct() -> Any:
    """A logger for lines that come with every request or pass: the same lines for a tenth of the price.

    It leaves out the standard library's logging, whose records, copies and formatters cost more than a poll, and a
    tenth of a pass. It knows `bind`, `debug`, `info` and `warning`, and no exceptions.
    """
    if _direct and structlog.get_config()["logger_factory"] is _direct["factory"]:
        return _direct["logger"]
    return structlog.get_logger()  # nobody, or somebody else, set logs up


def _rendered(_logger: Any, _method: str, event: Event) -> str:
    try:
        return msgspec.json.encode(event, enc_hook=str).decode()
    except (TypeError, ValueError):
        # Keys that are no texts, numbers beyond 64 bits, texts that are no Unicode: the line must be written.
        return json.dumps(event, default=str)


def _named(component: str) -> Any:
    def add(_logger: Any, _method: str, event: Event) -> Event:
        event.setdefault("component", component)
        return event

    return add
