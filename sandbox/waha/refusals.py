"""Why an operation of the simulator was refused; the HTTP side turns each into WAHA's status and body."""

from __future__ import annotations


class Refusal(Exception):
    """Base; the message is one sentence for people."""


class NotFound(Refusal):
    """404."""


class AlreadyExists(Refusal):
    """422 with `message` and `statusCode`."""


class Unprocessable(Refusal):
    """422 with `message` and `statusCode`."""


class InvalidBody(Refusal):
    """400 with a list of messages."""

    def __init__(self, *messages: str) -> None:
        super().__init__("; ".join(messages))
        self.messages = list(messages)


class WrongState(Refusal):
    """422 of the other shape: `{error, session, status, expected}`; `status` None = unknown session."""

    def __init__(self, session: str, status: str | None, expected: tuple[str, ...]) -> None:
        super().__init__(f"session {session} is {status or 'unknown'}")
        self.session = session
        self.status = status
        self.expected = expected


class NotImplementedByEngine(Refusal):
    """501."""


class EngineError(Refusal):
    """500: the engine did not start; what was stored before stays stored."""


class LockTimeout(Refusal):
    """500: the session's lock was not free in time, or was held too long."""
