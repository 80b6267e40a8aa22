"""`python -m bench.api_bare`: the handlers that the API's polls are held against, on the same server settings.

    /row/{user}     one asyncpg query of one indexed row, answered as a small JSON object
    /list/{user}    one asyncpg query of the user's chips, answered as a JSON array
    /same/{user}    verify the JWT of the request, one Redis GET, 304

Nothing else is in them: no log, no limits, no account.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import jwt
import redis.asyncio
import uvicorn
from litestar import Litestar, Request, Response, get
from litestar.params import FromPath

from core.store.engine import parse_url

_ROW = "SELECT id, email, plan_slug FROM users WHERE id = $1"
_LIST = (
    "SELECT id, alias, status, phase, phone_number, health_score, created_at, updated_at, connected_at "
    "FROM chips WHERE user_id = $1 AND deleted_at IS NULL ORDER BY created_at, id"
)


def create(database_url: str, redis_url: str, secret: str) -> Litestar:
    """`database_url`: as SQLAlchemy writes it."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        url = parse_url(database_url)
        _, address = url.get_dialect()().create_connect_args(url)
        # No reset: what is given back was not changed, and a second round trip would flatter the other side.
        pool = await asyncpg.create_pool(**address, min_size=10, max_size=10, reset=_as_it_is)
        app.state.pool = pool
        app.state.redis = redis.asyncio.Redis.from_url(redis_url)
        yield
        await app.state.redis.aclose()
        await pool.close()

    @get("/row/{user:str}")
    async def row(request: Request[Any, Any, Any], user: FromPath[str]) -> dict[str, Any]:
        return dict(await request.app.state.pool.fetchrow(_ROW, user))

    @get("/list/{user:str}")
    async def list_(request: Request[Any, Any, Any], user: FromPath[str]) -> list[dict[str, Any]]:
        return [dict(found) for found in await request.app.state.pool.fetch(_LIST, user)]

    @get("/same/{user:str}")
    async def same(request: Request[Any, Any, Any], user: FromPath[str]) -> Response[None]:
        token = request.headers["authorization"].removeprefix("Bearer ")
        subject = jwt.decode(token, secret, algorithms=["HS256"])["sub"]
        await request.app.state.redis.get(f"bench:{subject}")
        return Response(None, status_code=304, headers={"ETag": f'W/"{user}"'})

    return Litestar([row, list_, same], lifespan=[lifespan], logging_config=None, openapi_config=None)


async def _as_it_is(_connection: Any) -> None:
    pass


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.api_bare")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--redis", required=True)
    parser.add_argument("--secret", required=True)
    given = parser.parse_args()
    uvicorn.run(
        create(given.database, given.redis, given.secret),
        port=given.port,
        proxy_headers=False,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=15,
    )


if __name__ == "__main__":
    main()
