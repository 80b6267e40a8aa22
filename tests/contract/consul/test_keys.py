"""Keys, sessions, locks and transactions."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

NO_SESSION = "0aaaaaaa-cf4a-2ff2-5d3c-6aa0a9ce7b7e"


@pytest.fixture
async def session(consul: httpx.AsyncClient) -> AsyncIterator[Callable[..., Awaitable[str]]]:
    """Creates sessions and destroys them when the case is over."""
    made: list[str] = []

    async def create(**body: Any) -> str:
        answer = await consul.put("/v1/session/create", json=body)
        assert answer.status_code == 200, answer.text
        made.append(answer.json()["ID"])
        return made[-1]

    yield create
    for one in made:
        await consul.put(f"/v1/session/destroy/{one}")


async def put(consul: httpx.AsyncClient, key: str, value: bytes, **params: str) -> bool:
    answer = await consul.put(f"/v1/kv/{key}", content=value, params=params)
    assert answer.status_code == 200, answer.text
    took_effect: bool = answer.json()
    return took_effect


async def read(consul: httpx.AsyncClient, key: str) -> dict[str, Any]:
    (entry,) = (await consul.get(f"/v1/kv/{key}")).json()
    entry["Value"] = base64.b64decode(entry["Value"] or "")
    found: dict[str, Any] = entry
    return found


async def transact(consul: httpx.AsyncClient, *operations: dict[str, Any]) -> httpx.Response:
    return await consul.put("/v1/txn", json=[{"KV": one} for one in operations])


async def test_a_key_is_written_read_and_deleted(name: str, consul: httpx.AsyncClient) -> None:
    missing = await consul.get(f"/v1/kv/{name}")
    assert (missing.status_code, missing.content) == (404, b"")
    assert int(missing.headers["X-Consul-Index"]) >= 1
    assert await put(consul, name, b"\x00hello", flags="7")
    entry = await read(consul, name)
    assert (entry["Key"], entry["Value"], entry["Flags"], entry["LockIndex"]) == (name, b"\x00hello", 7, 0)
    assert entry["CreateIndex"] == entry["ModifyIndex"]
    assert "Session" not in entry
    assert (await consul.get(f"/v1/kv/{name}", params={"raw": ""})).content == b"\x00hello"
    assert await put(consul, name, b"again")
    later = await read(consul, name)
    assert later["CreateIndex"] == entry["CreateIndex"] < later["ModifyIndex"]
    assert (await consul.delete(f"/v1/kv/{name}")).json() is True
    assert (await consul.get(f"/v1/kv/{name}")).status_code == 404


async def test_keys_below_a_beginning(name: str, consul: httpx.AsyncClient) -> None:
    for key in ("a", "b/c", "b/d"):
        await put(consul, f"{name}/{key}", b"x")
    tree = (await consul.get(f"/v1/kv/{name}/", params={"recurse": ""})).json()
    assert [entry["Key"] for entry in tree] == [f"{name}/a", f"{name}/b/c", f"{name}/b/d"]
    names = await consul.get(f"/v1/kv/{name}/", params={"keys": "", "separator": "/"})
    assert names.json() == [f"{name}/a", f"{name}/b/"]
    assert (await consul.delete(f"/v1/kv/{name}/b/", params={"recurse": ""})).json() is True
    assert (await consul.get(f"/v1/kv/{name}/", params={"keys": ""})).json() == [f"{name}/a"]
    assert (await consul.get(f"/v1/kv/{name}-nobody", params={"recurse": ""})).status_code == 404


async def test_check_and_set(name: str, consul: httpx.AsyncClient) -> None:
    assert await put(consul, name, b"1", cas="0")
    assert not await put(consul, name, b"2", cas="0")
    index = (await read(consul, name))["ModifyIndex"]
    assert not await put(consul, name, b"2", cas=str(index + 1))
    assert await put(consul, name, b"2", cas=str(index))
    assert (await consul.delete(f"/v1/kv/{name}", params={"cas": str(index)})).json() is False
    assert (await read(consul, name))["Value"] == b"2"


async def test_refusals_of_keys(name: str, consul: httpx.AsyncClient) -> None:
    for params, status, text in (
        ({"cas": "1", "acquire": NO_SESSION}, 400, "Conflicting flags"),
        ({"acquire": NO_SESSION}, 500, f'invalid session "{NO_SESSION}"'),
        ({"acquire": "short"}, 500, "UUID must be 36 characters"),
        ({"cas": "x"}, 500, "invalid syntax"),
    ):
        answer = await consul.put(f"/v1/kv/{name}", content=b"x", params=params)
        assert answer.status_code == status
        assert text in answer.text
    answer = await consul.put("/v1/kv/", content=b"x")
    assert (answer.status_code, answer.text) == (400, "Missing key name")


async def test_a_session_is_listed_and_renewed(consul: httpx.AsyncClient, session: Any) -> None:
    made = await session(Name="daemon", TTL="30s", LockDelay="2s", Behavior="delete")
    (found,) = (await consul.get(f"/v1/session/info/{made}")).json()
    assert (found["ID"], found["Name"], found["TTL"]) == (made, "daemon", "30s")
    assert (found["LockDelay"], found["Behavior"]) == (2_000_000_000, "delete")
    assert found["Node"] == (await consul.get("/v1/agent/self")).json()["Config"]["NodeName"]
    assert made in {one["ID"] for one in (await consul.get("/v1/session/list")).json()}
    assert made in {one["ID"] for one in (await consul.get(f"/v1/session/node/{found['Node']}")).json()}
    (renewed,) = (await consul.put(f"/v1/session/renew/{made}")).json()
    assert renewed["ID"] == made
    assert (await consul.put(f"/v1/session/destroy/{made}")).json() is True
    assert (await consul.get(f"/v1/session/info/{made}")).json() == []
    gone = await consul.put(f"/v1/session/renew/{made}")
    assert (gone.status_code, gone.text) == (404, f"Session id '{made}' not found")
    assert (await consul.put(f"/v1/session/destroy/{made}")).json() is True


async def test_defaults_of_a_session(consul: httpx.AsyncClient, session: Any) -> None:
    (found,) = (await consul.get(f"/v1/session/info/{await session()}")).json()
    assert (found["LockDelay"], found["Behavior"], found["TTL"]) == (15_000_000_000, "release", "")
    (found,) = (await consul.get(f"/v1/session/info/{await session(LockDelay=0)}")).json()
    assert found["LockDelay"] == 0


async def test_refusals_of_sessions(consul: httpx.AsyncClient) -> None:
    for body, text in (
        ({"TTL": "1s"}, "Invalid Session TTL '1000000000', must be between [10s=24h0m0s]"),
        ({"TTL": "x"}, "Session TTL 'x' invalid"),
        ({"Behavior": "x"}, "Invalid Behavior setting 'x'"),
        ({"Node": "nobody"}, "Missing node registration"),
    ):
        answer = await consul.put("/v1/session/create", json=body)
        assert answer.status_code == 500
        assert text in answer.text
    answer = await consul.get("/v1/session/info/short")
    assert answer.status_code == 500
    assert "UUID must be 36 characters" in answer.text


async def test_a_lock_has_one_holder(name: str, consul: httpx.AsyncClient, session: Any) -> None:
    one, two = await session(LockDelay="0s"), await session(LockDelay="0s")
    assert await put(consul, name, b"one", acquire=one)
    held = await read(consul, name)
    assert (held["Session"], held["LockIndex"], held["Value"]) == (one, 1, b"one")
    assert not await put(consul, name, b"two", acquire=two)
    assert await put(consul, name, b"one again", acquire=one)
    assert (await read(consul, name))["LockIndex"] == 1
    assert not await put(consul, name, b"", release=two)
    assert await put(consul, name, b"free", release=one)
    free = await read(consul, name)
    assert "Session" not in free
    assert (free["LockIndex"], free["Value"]) == (1, b"free")
    assert await put(consul, name, b"two", acquire=two)  # an explicit release leaves no delay
    assert (await read(consul, name))["LockIndex"] == 2


async def test_a_lock_is_advisory(name: str, consul: httpx.AsyncClient, session: Any) -> None:
    holder = await session(LockDelay="0s")
    assert await put(consul, name, b"mine", acquire=holder)
    assert await put(consul, name, b"thief")
    entry = await read(consul, name)
    assert (entry["Value"], entry["Session"], entry["LockIndex"]) == (b"thief", holder, 0)
    assert await put(consul, name, b"mine", acquire=holder)
    assert (await read(consul, name))["LockIndex"] == 0


async def test_a_destroyed_session_releases_after_its_delay(
    name: str, consul: httpx.AsyncClient, session: Any
) -> None:
    one, two = await session(LockDelay="2s"), await session()
    assert await put(consul, name, b"one", acquire=one)
    # The delay counts from a moment between these two, however long the agent takes to answer.
    before = time.monotonic()
    await consul.put(f"/v1/session/destroy/{one}")
    after = time.monotonic()
    assert not await put(consul, name, b"two", acquire=two)
    released = await read(consul, name)
    assert "Session" not in released
    assert released["Value"] == b"one"
    async with asyncio.timeout(10):
        while not await put(consul, name, b"two", acquire=two):  # noqa: ASYNC110  an agent in its own time
            await asyncio.sleep(0.05)
    ended = time.monotonic()
    assert ended - before >= 1.8
    assert ended - after <= 5
    assert (await read(consul, name))["LockIndex"] == 2


async def test_no_delay_means_at_once(name: str, consul: httpx.AsyncClient, session: Any) -> None:
    one, two = await session(LockDelay="0s"), await session()
    assert await put(consul, name, b"one", acquire=one)
    await consul.put(f"/v1/session/destroy/{one}")
    assert await put(consul, name, b"two", acquire=two)


async def test_a_session_may_delete_its_keys(name: str, consul: httpx.AsyncClient, session: Any) -> None:
    one = await session(LockDelay="0s", Behavior="delete")
    assert await put(consul, name, b"one", acquire=one)
    await consul.put(f"/v1/session/destroy/{one}")
    assert (await consul.get(f"/v1/kv/{name}")).status_code == 404


async def test_a_session_that_nobody_renews_ends_within_twice_its_ttl(
    name: str, consul: httpx.AsyncClient, session: Any
) -> None:
    started = time.monotonic()
    short, renewed = await session(TTL="10s", LockDelay="0s"), await session(TTL="10s", LockDelay="0s")
    assert await put(consul, name, b"one", acquire=short)
    two = await session()
    async with asyncio.timeout(40):
        while not await put(consul, name, b"two", acquire=two):
            await consul.put(f"/v1/session/renew/{renewed}")
            await asyncio.sleep(0.5)
    assert 9.5 <= time.monotonic() - started <= 23
    assert (await consul.get(f"/v1/session/info/{short}")).json() == []
    assert len((await consul.get(f"/v1/session/info/{renewed}")).json()) == 1


async def test_a_transaction_takes_effect_as_a_whole(name: str, consul: httpx.AsyncClient) -> None:
    value = base64.b64encode(b"v").decode()
    done = await transact(
        consul,
        {"Verb": "set", "Key": f"{name}/1", "Value": value},
        {"Verb": "cas", "Key": f"{name}/2", "Index": 0, "Value": value},
        {"Verb": "get", "Key": f"{name}/1"},
    )
    assert done.status_code == 200
    assert done.json()["Errors"] is None
    results = [one["KV"] for one in done.json()["Results"]]
    assert [(one["Key"], one["Value"]) for one in results] == [
        (f"{name}/1", None),
        (f"{name}/2", None),
        (f"{name}/1", value),
    ]
    failed = await transact(
        consul,
        {"Verb": "set", "Key": f"{name}/1", "Value": base64.b64encode(b"w").decode()},
        {"Verb": "cas", "Key": f"{name}/2", "Index": 0, "Value": value},
    )
    assert failed.status_code == 409
    assert failed.json()["Results"] is None
    assert failed.json()["Errors"] == [
        {"OpIndex": 1, "What": f'failed to set key "{name}/2", index is stale'}
    ]
    assert (await read(consul, f"{name}/1"))["Value"] == b"v"


async def test_a_transaction_guards_a_lock(name: str, consul: httpx.AsyncClient, session: Any) -> None:
    holder, other = await session(LockDelay="0s"), await session(LockDelay="0s")
    value = base64.b64encode(b"v").decode()
    assert await put(consul, name, b"", acquire=holder)
    guard = {"Verb": "check-session", "Key": name}
    write = {"Verb": "set", "Key": f"{name}/data", "Value": value}
    refused = await transact(consul, {**guard, "Session": other}, write)
    assert refused.status_code == 409
    assert refused.json()["Errors"][0]["What"] == (
        f'failed session check for key "{name}", current session "{holder}" != "{other}"'
    )
    assert (await consul.get(f"/v1/kv/{name}/data")).status_code == 404
    assert (await transact(consul, {**guard, "Session": holder}, write)).status_code == 200
    assert (await read(consul, f"{name}/data"))["Value"] == b"v"


async def test_locks_inside_of_transactions(name: str, consul: httpx.AsyncClient, session: Any) -> None:
    one, two = await session(LockDelay="0s"), await session(LockDelay="0s")
    lock = {"Verb": "lock", "Key": name, "Value": ""}
    assert (await transact(consul, {**lock, "Session": one})).status_code == 200
    refused = await transact(consul, {**lock, "Session": two})
    assert refused.json()["Errors"][0]["What"] == f'failed to lock key "{name}", lock is already held'
    refused = await transact(consul, {**lock, "Verb": "unlock", "Session": two})
    assert refused.json()["Errors"][0]["What"] == (
        f'failed to unlock key "{name}", lock isn\'t held, or is held by another session'
    )
    assert (await transact(consul, {**lock, "Verb": "unlock", "Session": one})).status_code == 200
    assert "Session" not in await read(consul, name)


async def test_the_other_verbs(name: str, consul: httpx.AsyncClient) -> None:
    await put(consul, f"{name}/1", b"v")
    index = (await read(consul, f"{name}/1"))["ModifyIndex"]
    for operation, what in (
        ({"Verb": "get", "Key": f"{name}/0"}, f'key "{name}/0" doesn\'t exist'),
        ({"Verb": "check-not-exists", "Key": f"{name}/1"}, f'key "{name}/1" exists'),
        (
            {"Verb": "check-index", "Key": f"{name}/1", "Index": 1},
            f'failed index check for key "{name}/1", current modify index {index} != 1',
        ),
        (
            {"Verb": "delete-cas", "Key": f"{name}/1", "Index": 1},
            f'failed to delete key "{name}/1", index is stale',
        ),
        (
            {"Verb": "check-session", "Key": f"{name}/0", "Session": NO_SESSION},
            f'failed to check session, key "{name}/0" doesn\'t exist',
        ),
        ({"Verb": "bogus", "Key": f"{name}/1"}, 'unknown KV verb "bogus"'),
        ({"Verb": "get", "Key": ""}, "Must provide key"),
    ):
        answer = await transact(consul, operation)
        assert answer.status_code == 409, operation
        assert answer.json()["Errors"] == [{"OpIndex": 0, "What": what}]
    good = await transact(
        consul,
        {"Verb": "check-not-exists", "Key": f"{name}/0"},
        {"Verb": "check-index", "Key": f"{name}/1", "Index": index},
        {"Verb": "get-tree", "Key": f"{name}/"},
    )
    assert good.status_code == 200
    assert [one["KV"]["Key"] for one in good.json()["Results"]] == [f"{name}/1", f"{name}/1"]
    assert (await transact(consul, {"Verb": "delete-tree", "Key": f"{name}/"})).status_code == 200
    assert (await consul.get(f"/v1/kv/{name}/", params={"keys": ""})).status_code == 404


async def test_a_body_that_is_no_list_is_refused(consul: httpx.AsyncClient) -> None:
    answer = await consul.put("/v1/txn", content=b"{}")
    assert answer.status_code == 400
    assert answer.text.startswith("Failed to parse body: json: cannot unmarshal object")
