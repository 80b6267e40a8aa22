"""Storage of WAHA: whose databases are whose, what is refused, and that no password is ever shown."""

from __future__ import annotations

import os
import socket
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clients.storage import Storage, Storages, storage
from core.clients.storage_folder import FolderStorage
from core.domain import names
from core.errors import DependencyError, Rejected, Unavailable
from core.settings import Secret
from sandbox.waha.store import SessionStore

A, B = "u" + "a" * 15, "u" + "b" * 15
CHIP = "11111111-2222-4333-8444-555555555555"
ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
namespaces = st.text(ALPHABET, min_size=15, max_size=15).map("u".__add__)
near = namespaces.flatmap(
    lambda one: st.tuples(st.just(one), st.sampled_from(ALPHABET).map(lambda last: one[:-1] + last))
)
sessions = st.one_of(st.uuids().map(lambda id_: f"chip_{id_}"), st.text(min_size=1, max_size=80))


@given(near, sessions)
def test_no_namespace_ever_matches_the_databases_of_another(pair: tuple[str, str], session: str) -> None:
    one, other = pair
    for database in (names.main_database(one), names.stored_name(names.database_name(one, session))):
        assert names.namespace_of_database(database) == one
        assert (names.namespace_of_database(database) == other) is (one == other)


@given(st.text(ALPHABET + "_-", max_size=40))
def test_what_has_not_our_shape_is_nobodys(rest: str) -> None:
    found = names.namespace_of_database(f"waha_{rest}")
    assert found is None or (names.is_namespace(found) and rest.startswith(found))
    assert names.namespace_of_database(f"xwaha_{rest}") is None


@pytest.mark.parametrize(
    "database", ["waha_gows_default", "waha_u1", f"waha_{A}2", f"waha_{A.upper()}", A, ""]
)
def test_databases_of_others(database: str) -> None:
    assert names.namespace_of_database(database) is None
    assert names.chip_of_database(database) is None


@given(namespaces, st.uuids())
def test_a_session_s_database_names_its_chip_and_is_never_cut(namespace: str, chip: object) -> None:
    database = names.database_name(namespace, names.session_name(str(chip)))
    assert names.stored_name(database) == database
    assert names.chip_of_database(database) == str(chip)
    assert names.chip_of_database(names.main_database(namespace)) is None


@given(namespaces, st.text(max_size=120))
def test_a_name_is_cut_where_postgresql_cuts_it(namespace: str, session: str) -> None:
    database = names.database_name(namespace, session)
    stored = names.stored_name(database)
    assert database.startswith(stored)
    assert len(stored.encode()) == min(len(database.encode()), 63)


@pytest.fixture
def folder(tmp_path: Path) -> FolderStorage:
    for namespace in (A, B):
        store = SessionStore(str(tmp_path), namespace, namespace)
        store.save({"name": names.session_name(CHIP), "config": {}})
        store.save_auth(names.session_name(CHIP), {"device": "1"})
    SessionStore(str(tmp_path), "gows", "gows")
    (tmp_path / "journal").mkdir()
    (tmp_path / ("u" + "c" * 15)).write_text("a file, no folder")
    return FolderStorage(str(tmp_path))


async def test_a_folder_lists_what_is_ours(folder: FolderStorage) -> None:
    assert await folder.namespaces() == (A, B)
    own = (f"waha_{A}", f"waha_{A}_chip_{CHIP}")
    assert await folder.databases(A) == own
    assert await folder.listing() == (*own, f"waha_{B}", f"waha_{B}_chip_{CHIP}")
    assert await folder.databases("u" + "d" * 15) == ()
    size = await folder.size(A)
    assert size is not None
    assert size > 10


async def test_a_folder_drops_one_database_or_all_and_nothing_else(
    folder: FolderStorage, tmp_path: Path
) -> None:
    for _ in range(2):
        await folder.drop(A, f"waha_{A}_chip_{CHIP}")
        assert await folder.databases(A) == (f"waha_{A}",)
    for _ in range(2):
        await folder.drop(A)
        assert await folder.namespaces() == (B,)
    assert len(await folder.databases(B)) == 2
    assert set(os.listdir(tmp_path)) == {B, "gows", "journal", "u" + "c" * 15}


async def test_a_folder_never_follows_a_link_out_of_itself(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    root = tmp_path / "root"
    root.mkdir()
    (root / A).symlink_to(precious)
    with pytest.raises(Unavailable):
        await FolderStorage(str(root)).drop(A)
    assert (precious / "file").read_text() == "kept"


async def test_a_folder_that_nobody_made_yet_is_empty(tmp_path: Path) -> None:
    storage = FolderStorage(str(tmp_path / "none"))
    assert await storage.namespaces() == ()
    assert await storage.databases(A) == ()
    await storage.drop(A)


@pytest.mark.parametrize("namespace", ["", "u1", "..", "gows", f"{A}2", f"{A}/../{B}", A.upper(), f"{A}\n"])
@pytest.mark.parametrize("dsn", ["/nowhere", "postgres://waha@127.0.0.1:1/postgres"])
async def test_what_is_no_namespace_is_refused_before_anything_happens(dsn: str, namespace: str) -> None:
    client = storage(Secret(dsn))
    with pytest.raises(Rejected):
        await client.drop(namespace)
    with pytest.raises(Rejected):
        await client.databases(namespace)
    await client.aclose()


@pytest.mark.parametrize(
    "database", ["postgres", f"waha_{B}", f"waha_{B}_chip_{CHIP}", f"waha_{A}2_x", "waha_"]
)
@pytest.mark.parametrize("dsn", ["/nowhere", "postgres://waha@127.0.0.1:1/postgres"])
async def test_a_database_of_another_namespace_is_refused(dsn: str, database: str) -> None:
    client = storage(Secret(dsn))
    with pytest.raises(Rejected):
        await client.drop(A, database)
    await client.aclose()


PASSWORD = "hunter2-and-more"


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgres://waha:{PASSWORD}@127.0.0.1:{{port}}/postgres",
        f"postgres://waha:{PASSWORD}/x@127.0.0.1/postgres",
        f"postgres://waha:{PASSWORD}@[::1/postgres",
        f"postgres://waha:{PASSWORD}@127.0.0.1:{{port}}/postgres?sslmode={PASSWORD}",
        f"postgres://waha:{PASSWORD}@127.0.0.1:{{port}},127.0.0.1:x{PASSWORD}/postgres",
        f"mysql://waha:{PASSWORD}@127.0.0.1/x",
        f"waha:{PASSWORD}@127.0.0.1",
    ],
)
async def test_no_error_shows_the_password(dsn: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: whoever connects is refused
        error = await _failure(dsn.format(port=taken.getsockname()[1]))
    assert error is not None
    assert PASSWORD not in "".join(traceback.format_exception(error)) + repr(error)
    assert error.system == "storage"


async def _failure(dsn: str) -> DependencyError | None:
    try:
        await storage(Secret(dsn), timeout_s=5).namespaces()
    except DependencyError as error:
        return error
    return None


def test_a_server_that_nobody_set_up_is_named() -> None:
    one: Storage = FolderStorage("/nowhere")
    known = Storages({"main": one})
    assert known.on("main") is one
    assert known.ids == ("main",)
    with pytest.raises(Rejected, match="'old' is not set up") as caught:
        known.on("old")
    assert caught.value.code == "storage_unknown"
