"""The operator's verbs over the application of a test, served on a port of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, cast

import pytest
import uvicorn
from litestar import Litestar

from cli.main import main
from tests.polling import eventually

# What a verb prints: `await run("fleet", "show")`; with `code`, what it says of a failure.
Run: TypeAlias = Callable[..., Any]


@asynccontextmanager
async def served(app: Litestar) -> AsyncIterator[str]:
    """The application on a port of this machine; its lifespan is the test's."""
    config = uvicorn.Config(cast(Any, app), port=0, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())

    async def port() -> int:
        return server.servers[0].sockets[0].getsockname()[1] if server.started else 0

    try:
        yield f"http://127.0.0.1:{await eventually(port, 20)}"
    finally:
        server.should_exit = True
        await task


def runner(url: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs verbs against the API at `url`."""

    async def verb(*arguments: str, code: int = 0, errors: bool = False) -> str:
        def in_thread() -> int:
            with pytest.raises(SystemExit) as ended:
                main(["--api", url, *arguments])
            return int(ended.value.code or 0)

        capsys.readouterr()
        found = await asyncio.to_thread(in_thread)
        shown = capsys.readouterr()
        # The application of this process logs to the same place.
        out = "\n".join(line for line in shown.out.splitlines() if "[info " not in line)
        assert found == code, shown.err
        return shown.err if errors or code else out

    return verb
