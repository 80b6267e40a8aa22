"""A browser's HTTP cache (RFC 9111) as far as it matters here: private, keyed by URL and by what `Vary` names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class _Stored:
    named: dict[str, str]  # request headers that `Vary` names, as they were
    tag: str
    body: bytes


@dataclass
class Browser:
    """One profile. Cookies are the client's; whoever logs in next uses the same cache.

    `careless`: sends the tag of any stored answer to the URL, whatever `Vary` says, as RFC 9110 (13.1.2)
    allows, and takes a 304 for whichever of them has the tag.
    """

    client: httpx.AsyncClient
    careless: bool = False
    unchanged: int = 0
    _kept: dict[str, list[_Stored]] = field(default_factory=dict)

    async def get(self, path: str, token: str | None = None) -> Any:
        """What a page's `fetch` gets to see."""
        headers = {"Sec-Fetch-Mode": "cors", "Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        request = self.client.build_request("GET", f"/api/v1{path}", headers=headers)
        stored = self._kept.setdefault(path, [])
        fitting = [one for one in stored if self.careless or one.named == _named(request, one.named)]
        if fitting:
            request.headers["If-None-Match"] = ", ".join(one.tag for one in fitting)
        answer = await self.client.send(request)
        if answer.status_code == 304:
            self.unchanged += 1
            [found] = [one for one in fitting if one.tag == answer.headers["etag"]]
            return httpx.Response(200, content=found.body).json()
        directives = {part.strip() for part in answer.headers["cache-control"].split(",")}
        # Nothing may be used without asking first: this cache would serve a stored answer as it is.
        assert directives == {"no-store"} or {"private", "no-cache"} <= directives
        if answer.status_code == 200 and "no-store" not in directives:
            names = [name.strip().lower() for name in answer.headers["vary"].split(",")]
            named = _named(request, dict.fromkeys(names, ""))
            stored[:] = [one for one in stored if one.named != named]
            stored.append(_Stored(named, answer.headers["etag"], answer.content))
        return answer.json()


def _named(request: httpx.Request, names: dict[str, str]) -> dict[str, str]:
    return {name: request.headers.get(name, "") for name in names}
