"""The embedded PostgreSQL: life of a data folder, and the sentences of its refusals."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from sandbox import postgres_setup as subject
from sandbox.postgres import EmbeddedPostgres, PostgresError, scratch_folder
from sandbox.tether import is_alive

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes the server's user")


@pytest.fixture
def folder() -> Iterator[Path]:
    path = scratch_folder()
    yield path
    shutil.rmtree(path, ignore_errors=True)


def dsn(url: str) -> str:
    return url.replace("postgresql+asyncpg", "postgresql")


async def test_a_client_connects_over_the_url_and_psql_over_its_command(postgres: EmbeddedPostgres) -> None:
    url = postgres.ensure_database("seen")
    assert postgres.ensure_database("seen") == url
    connection = await asyncpg.connect(dsn(url))
    try:
        assert await connection.fetchval("SELECT current_database()") == "seen"
        assert await connection.fetchval("SHOW max_connections") == "200"
        assert await connection.fetchval("SHOW listen_addresses") == ""
    finally:
        await connection.close()
    assert postgres.execute("SELECT 40 + 2") == "42"


async def test_each_test_has_a_database_of_its_own(postgres: EmbeddedPostgres) -> None:
    postgres.create_database("original")
    postgres.execute("CREATE TABLE t AS SELECT 1 AS n", database="original")
    url = postgres.create_database("copy", template="original")
    connection = await asyncpg.connect(dsn(url))
    try:
        assert await connection.fetchval("SELECT n FROM t") == 1
        postgres.drop_database("copy")  # cuts the open connection off
        assert "copy" not in postgres.databases()
    finally:
        connection.terminate()
    with pytest.raises(PostgresError, match="refused"):
        postgres.create_database("original")


def test_rows_are_there_after_stop_and_after_a_crash_of_the_server(folder: Path) -> None:
    with EmbeddedPostgres.start(folder) as server:
        server.create_database("kept")
        server.execute("CREATE TABLE t AS SELECT 7 AS n", database="kept")
    assert not (folder / "cluster" / "postmaster.pid").exists()
    server = EmbeddedPostgres.start(folder)
    assert server.execute("SELECT n FROM t", database="kept") == "7"
    server.execute("INSERT INTO t VALUES (8)", database="kept")
    server.kill()
    assert (folder / "cluster" / "postmaster.pid").exists()
    with EmbeddedPostgres.start(folder) as server:
        assert server.execute("SELECT sum(n) FROM t", database="kept") == "15"


def test_one_folder_has_one_owner(folder: Path) -> None:
    with (
        EmbeddedPostgres.start(folder, durable=False),
        pytest.raises(PostgresError, match=f"belongs to the running process {os.getpid()}"),
    ):
        EmbeddedPostgres.start(folder)


def test_the_server_ends_with_an_owner_that_was_killed_and_the_folder_starts_again(folder: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from sandbox.postgres import EmbeddedPostgres\n"
        "server = EmbeddedPostgres.start(Path(sys.argv[1]), durable=False)\n"
        "server.create_database('kept'); print(server.pid, flush=True); time.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    with owner.stdout:
        server_pid = int(owner.stdout.readline())
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    # No waiting: whether the old server has ended by itself already or not, a start must work.
    with EmbeddedPostgres.start(folder, durable=False) as server:
        assert "kept" in server.databases()
        assert not is_alive(server_pid)


def test_a_killed_owner_alone_is_enough_to_end_the_server(folder: Path) -> None:
    script = (
        "import os, sys, signal; from pathlib import Path; from sandbox.postgres import EmbeddedPostgres\n"
        "server = EmbeddedPostgres.start(Path(sys.argv[1]), durable=False)\n"
        "print(server.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, check=False)
    server_pid = int(done.stdout)
    deadline = time.monotonic() + 20
    while is_alive(server_pid):
        assert time.monotonic() < deadline, "the server outlived its owner"
        time.sleep(0.02)


def test_an_old_process_number_that_a_stranger_has_now_is_not_believed(folder: Path) -> None:
    with EmbeddedPostgres.start(folder, durable=False):
        record = (folder / "cluster" / "postmaster.pid").read_text()
    lines = record.splitlines()
    lines[0] = str(os.getpid())
    (folder / "cluster" / "postmaster.pid").write_text("\n".join(lines) + "\n")
    with EmbeddedPostgres.start(folder, durable=False) as server:
        assert server.execute("SELECT 1") == "1"


def test_an_interrupted_first_start_is_made_afresh(folder: Path) -> None:
    half = folder / "cluster.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres.start(folder, durable=False) as server:
        assert server.execute("SELECT 1") == "1"


def test_data_of_another_version_is_refused(folder: Path) -> None:
    (folder / "cluster").mkdir()
    (folder / "cluster" / "PG_VERSION").write_text("16\n")
    with pytest.raises(PostgresError, match=r"written by PostgreSQL 16 .* `--data`"):
        EmbeddedPostgres.start(folder)


def test_a_deep_folder_gets_a_short_socket(folder: Path) -> None:
    deep = folder / ("d" * 60) / ("e" * 60)
    with EmbeddedPostgres.start(deep, durable=False) as server:
        assert len(str(server.sockets)) < 80
        assert server.execute("SELECT 1") == "1"
        sockets = server.sockets
    shutil.rmtree(sockets)


@AS_ROOT
def test_root_is_told_about_a_closed_parent_and_no_mode_is_changed(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(PostgresError, match=r"lets no other user in; .*`--data`"):
        EmbeddedPostgres.start(closed / "data")
    assert closed.stat().st_mode & 0o777 == 0o700
    assert not (closed / "data").exists()


@AS_ROOT
def test_binaries_in_a_closed_folder_are_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "others_can_run", lambda program: False)
    with EmbeddedPostgres.start(folder, durable=False) as server:
        assert server.binaries.is_relative_to(folder)
        assert server.execute("SELECT 1") == "1"


def test_others_can_run_looks_at_every_parent(tmp_path: Path) -> None:
    program = tmp_path / "open" / "program"
    program.parent.mkdir(mode=0o755)
    program.touch(mode=0o755)
    tmp_path.chmod(0o700)
    assert not subject.others_can_run(program)


def test_a_missing_wheel_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PostgresError, match="make setup"):
        EmbeddedPostgres.start(folder)
