"""Every error that crosses a border of this project.

    AppError
    ├── DomainError            what a caller asked for cannot be done (the API's 4xx)
    │   ├── NotFound, Forbidden, QuotaExceeded, Conflict, InvalidInput, Unauthenticated, TooManyRequests
    └── DependencyError        an outside system did not do its part
        ├── Unavailable        no answer, or one that says nothing: try again; the fact stays Unknown
        ├── Throttled          asked to slow down: try again after `after_s`
        ├── Rejected           it understood and refused: final until the wish changes
        ├── Missing            it has no such thing: a fact for observe, a success for delete
        └── StaleWrite         somebody else wrote first: drop the result, look again

Clients translate at the border and chain the cause (`raise ... from error`). Bodies are cut to
`BODY_LIMIT` characters; tokens and passwords are never kept.
"""

from __future__ import annotations

from collections.abc import Mapping

BODY_LIMIT = 256


class AppError(Exception):
    """Base of all errors of this project.

    Attributes:
        code: stable English identifier, shown to machines.
        message: one sentence for whoever reads it; for `DomainError` it is Brazilian Portuguese and
            shown to people as it is, for `DependencyError` it is English and goes to logs.
    """

    default_code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.message = message


class DomainError(AppError):
    """The request cannot be granted as it stands."""

    default_code = "bad_request"


class NotFound(DomainError):
    default_code = "not_found"


class Unauthenticated(DomainError):
    default_code = "unauthenticated"


class Forbidden(DomainError):
    default_code = "forbidden"


class QuotaExceeded(DomainError):
    default_code = "quota_exceeded"


class Conflict(DomainError):
    default_code = "conflict"


class InvalidInput(DomainError):
    """Fields did not pass validation.

    Attributes:
        fields: field name in the body -> one pt-BR sentence.
    """

    default_code = "invalid_input"

    def __init__(self, message: str, *, fields: Mapping[str, str] | None = None, code: str | None = None):
        super().__init__(message, code=code)
        self.fields = dict(fields or {})


class TooManyRequests(DomainError):
    """A limit was reached; `after_s` whole seconds until it is worth trying again."""

    default_code = "too_many_requests"

    def __init__(self, message: str, *, after_s: int, code: str | None = None):
        super().__init__(message, code=code)
        self.after_s = after_s


class DependencyError(AppError):
    """An outside system did not do its part.

    Attributes:
        system: `nomad`, `consul`, `waha`, `storage` (where WAHA keeps its sessions), `redis` or `postgres`.
    """

    default_code = "dependency"

    def __init__(self, system: str, message: str, *, code: str | None = None):
        super().__init__(f"{system}: {message[:BODY_LIMIT]}", code=code)
        self.system = system


class Unavailable(DependencyError):
    default_code = "unavailable"


class Throttled(DependencyError):
    default_code = "throttled"

    def __init__(self, system: str, message: str, *, after_s: float, code: str | None = None):
        super().__init__(system, message, code=code)
        self.after_s = after_s


class Rejected(DependencyError):
    default_code = "rejected"


class Missing(DependencyError):
    default_code = "missing"


class StaleWrite(DependencyError):
    default_code = "stale_write"
