"""What this project uses of python-nomad 2.1, which ships no types."""

import requests

from nomad import api as api

class Requester:
    def request(
        self,
        *args: str,
        method: str,
        params: dict[str, object] | None = ...,
        json: object = ...,
        headers: dict[str, str] | None = ...,
        timeout: float | tuple[float, float] | None = ...,
        allow_redirects: bool = ...,
        stream: bool = ...,
    ) -> requests.Response: ...

class Nomad:
    def __init__(
        self,
        host: str = ...,
        secure: bool = ...,
        port: int = ...,
        address: str | None = ...,
        user_agent: str | None = ...,
        namespace: str | None = ...,
        token: str | None = ...,
        timeout: float = ...,
        region: str | None = ...,
        version: str = ...,
        verify: bool | str = ...,
        cert: tuple[str, str] | tuple[()] = ...,
        session: requests.Session | None = ...,
    ) -> None: ...
    @property
    def job(self) -> Requester: ...
    @property
    def jobs(self) -> Requester: ...
    @property
    def allocation(self) -> Requester: ...
    @property
    def allocations(self) -> Requester: ...
    @property
    def variable(self) -> Requester: ...
    @property
    def variables(self) -> Requester: ...
    @property
    def status(self) -> Status: ...
    @property
    def client(self) -> Client: ...

class Client:
    @property
    def allocation(self) -> Requester: ...
    @property
    def stream_logs(self) -> Requester: ...

class Status:
    @property
    def leader(self) -> Requester: ...
