"""The data folder: one owner, secrets that stay, leftovers that are ended, nothing for other users."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.up.data import DataFolder, Record, read_env, write_private
from sandbox.up.environment import base_environment
from sandbox.up.errors import SandboxError
from sandbox.up.machine import process_started

API = "http://127.0.0.1:8000"


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    first = DataFolder.open(tmp_path / "data", api=API)
    with pytest.raises(SandboxError, match=rf"already runs on .*process {os.getpid()}, {API}.*--data"):
        DataFolder.open(tmp_path / "data", api="http://127.0.0.1:8001")
    first.close()
    DataFolder.open(tmp_path / "data", api=API).close()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SandboxError, match="--data"):
        DataFolder.open(tmp_path / "file" / "data", api=API)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    os.chown(tmp_path / "data", 65534, 65534)
    with pytest.raises(SandboxError, match="belongs to another user"):
        DataFolder.open(tmp_path / "data", api=API)


def test_secrets_are_made_once_and_kept(tmp_path: Path) -> None:
    data = DataFolder.open(tmp_path, api=API)
    made = data.secrets()
    assert set(made) == {
        "JWT_SECRET_KEY",
        "WAHAFLEET_SECRET_KEYS",
        "WAHAFLEET_OPERATOR_TOKEN",
        "WAHAFLEET_GUARD_SECRET",
        "SANDBOX_PROVIDER_PASSWORD",
    }
    assert len(made["JWT_SECRET_KEY"]) >= 32
    assert data.secrets() == made
    data.close()
    assert stat.S_IMODE((tmp_path / "secrets.env").stat().st_mode) == 0o600


def test_secrets_of_two_folders_differ(tmp_path: Path) -> None:
    one, two = DataFolder.open(tmp_path / "1", api=API), DataFolder.open(tmp_path / "2", api=API)
    assert not set(one.secrets().values()) & set(two.secrets().values())
    one.close()
    two.close()


def test_a_damaged_secrets_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    data = DataFolder.open(tmp_path, api=API)
    write_private(tmp_path / "secrets.env", "JWT_SECRET_KEY='only this'\n")
    with pytest.raises(SandboxError, match="WAHAFLEET_SECRET_KEYS"):
        data.secrets()
    assert (tmp_path / "secrets.env").read_text() == "JWT_SECRET_KEY='only this'\n"
    data.close()


def test_a_folder_from_before_there_were_guards_gets_what_it_lacks_and_keeps_the_rest(tmp_path: Path) -> None:
    data = DataFolder.open(tmp_path, api=API)
    old = "JWT_SECRET_KEY=a\nWAHAFLEET_SECRET_KEYS=b\nWAHAFLEET_OPERATOR_TOKEN=c\n"
    write_private(tmp_path / "secrets.env", old)
    made = data.secrets()
    assert (made["JWT_SECRET_KEY"], made["WAHAFLEET_SECRET_KEYS"], made["WAHAFLEET_OPERATOR_TOKEN"]) == (
        "a",
        "b",
        "c",
    )
    assert len(made["WAHAFLEET_GUARD_SECRET"]) >= 32
    assert data.secrets() == made
    data.close()


def test_settings_read_back_as_written_and_as_a_shell_reads_them(tmp_path: Path) -> None:
    data = DataFolder.open(tmp_path, api=API)
    values = {"A": "plain", "B": 'it\'s $HOME `id` "x" \\', "C": "", "D": "a=b,c"}
    file = data.write_settings(values)
    data.close()
    assert read_env(file) == values
    script = f". {file}; printf '%s' \"$B\""
    assert subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True).stdout == values["B"]


def test_leftovers_are_ended_and_strangers_are_not(tmp_path: Path) -> None:
    data = DataFolder.open(tmp_path, api=API)
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    left, stranger = subprocess.Popen(sleeper), subprocess.Popen(sleeper)
    try:
        data.remember("daemon", left.pid)
        # The number of a child that ended long ago, given to somebody else since.
        data.remember("api", stranger.pid)
        record = tmp_path / "run" / "api.json"
        record.write_text(record.read_text().replace(process_started(stranger.pid) or "", "1"))
        (tmp_path / "run" / "torn.json").write_text('{"name": "x"')
        ended = data.end_leftovers(settle_s=0)
        assert [found.name for found in ended] == ["daemon"]
        assert left.wait(5) == -15
        assert stranger.poll() is None
        assert list((tmp_path / "run").iterdir()) == []
    finally:
        for process in (left, stranger):
            process.kill()
            process.wait()
        data.close()


def test_a_record_of_a_process_that_is_gone_needs_nothing(tmp_path: Path) -> None:
    data = DataFolder.open(tmp_path, api=API)
    gone = subprocess.Popen(["/bin/true"])
    started = process_started(gone.pid)
    gone.wait()
    write_private(tmp_path / "run" / "api.json", f'{{"name":"api","pid":{gone.pid},"started":"{started}"}}')
    assert data.end_leftovers(settle_s=0) == ()
    data.close()


def test_a_process_has_one_start_time() -> None:
    assert process_started(os.getpid()) == process_started(os.getpid())
    assert Record("x", 1, "2") != Record("x", 1, "3")


def test_children_see_no_way_out_of_the_sandbox() -> None:
    seen = base_environment(
        {
            "PATH": "/bin",
            "NOMAD_TOKEN": "t",
            "NOMAD_ADDR": "https://prod:4646",
            "CONSUL_HTTP_TOKEN": "t",
            "HTTPS_PROXY": "http://proxy",
            "http_proxy": "http://proxy",
        }
    )
    assert seen == {"PATH": "/bin", "PYTHONUNBUFFERED": "1"}
