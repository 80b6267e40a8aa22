"""The part of py-consul that we use; every name and positional argument exists in python-consul too."""

from typing import Any

from consul.exceptions import (
    ACLDisabled as ACLDisabled,
    ACLPermissionDenied as ACLPermissionDenied,
    BadRequest as BadRequest,
    ClientError as ClientError,
    ConsulException as ConsulException,
    NotFound as NotFound,
    Timeout as Timeout,
)
from requests import Session

class _HTTPClient:
    session: Session

class _Health:
    # The keywords that only py-consul knows (filter_expr) arrive through a dict, see core/clients/discovery.py.
    def service(
        self,
        service: str,
        *,
        index: str | None = ...,
        wait: str | None = ...,
        passing: bool | None = ...,
        tag: str | None = ...,
        dc: str | None = ...,
        near: str | None = ...,
        token: str | None = ...,
        **newer: Any,
    ) -> tuple[str, Any]: ...

class _Catalog:
    def deregister(
        self, node: str, service_id: str | None = ..., check_id: str | None = ..., dc: str | None = ...
    ) -> bool: ...

class _Status:
    def leader(self) -> str: ...

class Consul:
    http: _HTTPClient
    health: _Health
    catalog: _Catalog
    status: _Status
    token: str | None
    def __init__(
        self,
        host: str = ...,
        port: int = ...,
        token: str | None = ...,
        scheme: str = ...,
        consistency: str = ...,
        dc: str | None = ...,
        verify: bool | str = ...,
        cert: str | tuple[str, str] | None = ...,
        **newer: Any,
    ) -> None: ...
