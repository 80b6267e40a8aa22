"""Asks a Nomad agent to parse HCL: the one judge of what a jobspec means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from core.domain.jobspec_template import declared, hcl_values, mark, sentinels
from core.errors import Rejected, Unavailable

_SYSTEM = "nomad"


class JobspecCompiler:
    """Talks to one Nomad agent (`/v1/jobs/parse`; capability parse-job or submit-job where ACLs are on)."""

    def __init__(
        self, address: str, *, token: str | None = None, timeout_s: float = 10.0, ca_file: str | None = None
    ) -> None:
        """`address`: http(s)://host:port. `ca_file`: CA bundle for https, None = the system's."""
        headers = {"X-Nomad-Token": token} if token else {}
        self._http = httpx.Client(
            base_url=address, headers=headers, timeout=timeout_s, verify=_trust(ca_file), trust_env=False
        )
        self._address = address

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> JobspecCompiler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def nomad_version(self) -> str:
        """Release of the agent, as `1.10.5`. Raises Unavailable, Rejected."""
        told = self._call("GET", "/v1/agent/self")
        return str(told["config"]["Version"]["Version"])

    def parse(self, source: str, variables: str) -> dict[str, Any]:
        """The Job that Nomad makes of an HCL text and of its variables file. Raises Unavailable, Rejected."""
        body = {"JobHCL": source, "Variables": variables, "Canonicalize": False}
        return self._call("POST", "/v1/jobs/parse", body)

    def compile(self, source: str) -> dict[str, Any]:
        """The template of an HCL jobspec. Raises JobspecError on a wrong declaration, Unavailable, Rejected."""
        types = declared(source)
        return mark(self.parse(source, hcl_values(types, sentinels(types))), types)

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            answer = self._http.request(method, path, json=body)
            if answer.status_code >= 400:
                # A parse error is 400 text/plain; its first lines say where in the file.
                raise Rejected(_SYSTEM, f"{path} answered {answer.status_code}: {answer.text.strip()}")
            told = answer.json()
        except httpx.HTTPError as error:
            raise Unavailable(
                _SYSTEM,
                f"no answer from {self._address} ({type(error).__name__}): is a Nomad agent running there?",
            ) from error
        except ValueError as error:
            raise Rejected(
                _SYSTEM, f"{self._address}{path} did not answer JSON: is it a Nomad agent?"
            ) from error
        if not isinstance(told, dict):
            raise Rejected(
                _SYSTEM, f"{self._address}{path} did not answer a JSON object: is it a Nomad agent?"
            )
        return told


def _trust(ca_file: str | None) -> Any:
    if ca_file is None:
        return True
    import ssl

    return ssl.create_default_context(cafile=ca_file)
