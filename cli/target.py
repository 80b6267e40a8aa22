"""Which wahafleet a verb talks to, and how."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from cli.failures import CommandError
from sandbox.up import context
from sandbox.up.data import read_env

if TYPE_CHECKING:
    import httpx

TIMEOUT_S: Final = 30.0


class Target:
    """The wahafleet at `url`, or the newest one that runs here."""

    def __init__(self, url: str | None) -> None:
        if url is not None and not urlsplit(url).hostname:
            raise CommandError(f"--api takes an address such as http://127.0.0.1:8000, not {url!r}.")
        self._url = url
        self._context = context.find(url)

    @property
    def url(self) -> str:
        """Raises CommandError when no address was given and none runs here."""
        if self._url is not None:
            return self._url.rstrip("/")
        if self._context is None:
            raise CommandError(
                "no wahafleet runs here; start one with `wahafleet up`, or name one with --api URL."
            )
        return self._context.api

    @property
    def operator_token(self) -> str:
        """From WAHAFLEET_OPERATOR_TOKEN, else from the context of the address. Raises CommandError."""
        token = os.environ.get("WAHAFLEET_OPERATOR_TOKEN", "").strip()
        if token:
            return token
        if self._context is None:
            raise CommandError(
                f"no `wahafleet up` of yours serves {self.url}, so its operator token is not known here; "
                "set WAHAFLEET_OPERATOR_TOKEN."
            )
        return self._context.operator_token

    def check(self) -> None:
        """Raises CommandError when there is no wahafleet to talk to, or no token for it."""
        assert self.url
        assert self.operator_token

    @property
    def database_url(self) -> str:
        """Of the store: from WAHAFLEET_DATABASE_URL, else that of the running sandbox. Raises CommandError."""
        url = self.environment().get("WAHAFLEET_DATABASE_URL", "")
        if not url:
            raise CommandError(
                "WAHAFLEET_DATABASE_URL is not set and no wahafleet of yours runs here; set it, as "
                "postgresql+asyncpg://user:password@host/database, or start one with `wahafleet up`."
            )
        return url

    def environment(self) -> dict[str, str]:
        """Settings for verbs that work on the store itself: the shell's, else those of the running sandbox."""
        if os.environ.get("WAHAFLEET_DATABASE_URL") or self._context is None:
            return dict(os.environ)
        file = Path(self._context.data) / "settings.env"
        try:
            return {**os.environ, **read_env(file)}
        except OSError as error:
            raise CommandError(
                f"{file} cannot be read ({error.strerror}); set WAHAFLEET_DATABASE_URL and the other settings."
            ) from error

    def get(self, path: str, **query: str | int) -> Any:
        """The decoded answer of GET `path` (below /api/v1), as the operator.

        Raises CommandError with the API's own sentence for anything but 200.
        """
        return self._asked("GET", path, (200,), query).json()

    def page(self, path: str) -> tuple[Any, str | None]:
        """The decoded answer of GET `path` and the path of the next page, None for the last. Raises as `get`."""
        answer = self._asked("GET", path, (200,), {})
        following = answer.links.get("next", {}).get("url")
        return answer.json(), None if following is None else following.removeprefix("/api/v1")

    def post(self, path: str, *, wanted: int = 202, body: dict[str, Any] | None = None, **query: str) -> Any:
        """The decoded answer of POST `path`, which is accepted with `wanted`. Raises CommandError as `get` does."""
        return self._asked("POST", path, (wanted,), query, body).json()

    def put(self, path: str, body: dict[str, Any] | None = None) -> tuple[Any, bool]:
        """The decoded answer of PUT `path`, and whether something was made. Raises CommandError as `get` does."""
        answer = self._asked("PUT", path, (200, 201), {}, body)
        return answer.json(), answer.status_code == 201

    def delete(self, path: str) -> Any:
        """The decoded answer of DELETE `path`, None where nothing is left to tell. Raises CommandError as `get` does."""
        answer = self._asked("DELETE", path, (200, 202, 204), {})
        return None if answer.status_code == 204 else answer.json()

    def events(self, path: str, **query: str | int) -> Iterator[str]:
        """The data of each server-sent event of GET `path`, until the API ends it. Raises CommandError."""
        import httpx

        # A comment comes every ten seconds; silence for longer means that nobody is there any more.
        try:
            with httpx.stream("GET", params=query, timeout=TIMEOUT_S, **self._to(path)) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise CommandError(_refusal(self.url, answer))
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        yield line.removeprefix("data: ")
        except httpx.HTTPError as error:
            raise self._silent(error) from error

    def _asked(
        self,
        method: str,
        path: str,
        wanted: tuple[int, ...],
        query: Mapping[str, str | int],
        body: dict[str, Any] | None = None,
    ) -> httpx.Response:
        import httpx  # the verbs that run parts of the system do not need it

        try:
            answer = httpx.request(
                method, params=dict(query) or None, json=body, timeout=TIMEOUT_S, **self._to(path)
            )
        except httpx.HTTPError as error:
            raise self._silent(error) from error
        if answer.status_code not in wanted:
            raise CommandError(_refusal(self.url, answer))
        try:
            if answer.status_code != 204:
                answer.json()
        except ValueError:
            raise CommandError(
                f"{self.url} is no wahafleet API; check the address given with --api."
            ) from None
        return answer

    def _to(self, path: str) -> dict[str, Any]:
        return {
            "url": f"{self.url}/api/v1{path}",
            "headers": {"Authorization": f"Bearer {self.operator_token}"},
            "trust_env": False,
        }

    def _silent(self, error: Exception) -> CommandError:
        return CommandError(
            f"{self.url} does not answer ({type(error).__name__}); see that `wahafleet up` runs, or name "
            "another address with --api."
        )


def _refusal(url: str, answer: httpx.Response) -> str:
    if answer.status_code == 401:
        return (
            f"{url} does not accept this operator token; set WAHAFLEET_OPERATOR_TOKEN to the one that its API "
            "was started with."
        )
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return f"{url} answered {answer.status_code} and no reason; check the address given with --api."
    return f"{url} answered {answer.status_code}: {detail}"
