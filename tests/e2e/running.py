"""A `wahafleet up` of its own: started as a person would, watched from outside, ended by signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from core.variables import NO_LIMITS
from sandbox.free_ports import free_port, free_range

T = TypeVar("T")

WAHAFLEET = str(Path(sys.executable).with_name("wahafleet"))
EMAIL, PASSWORD = "test@whago.com", "Test@123456"
START_S = 60.0


def until(probe: Callable[[], T], within_s: float, what: str) -> T:
    """Call `probe` until its result is true and return that; an AssertionError with `what` otherwise."""
    deadline = time.monotonic() + within_s
    while True:
        result = probe()
        if result:
            return result
        assert time.monotonic() < deadline, f"{what}: not within {within_s:g} s, last seen {result!r}"
        time.sleep(0.1)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that PostgreSQL's user can pass through; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="wahafleet-e2e-", dir="/var/tmp"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Up:
    """One `wahafleet up` on `folder`."""

    def __init__(self, folder: Path, *options: str, port: int | None = None, **env: str) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "up.log"
        self.mark = f"E2E_MARK={uuid.uuid4()}"
        name, _, value = self.mark.partition("=")
        # A range of its own for each sandbox, so that several can run on one machine.
        first = free_range(100, "127.0.0.1")
        options = (
            "--port",
            str(self.port),
            "--data",
            str(self.data),
            "--ports",
            f"{first}-{first + 99}",
            *options,
        )
        self.env = {**os.environ, **NO_LIMITS, "XDG_STATE_HOME": str(folder / "state"), name: value, **env}
        with self.log.open("ab") as log:
            self._from = log.tell()
            self.process = subprocess.Popen(
                [WAHAFLEET, "up", *options], stdout=log, stderr=subprocess.STDOUT, env=self.env
            )

    def said(self) -> str:
        """What it has printed so far."""
        with self.log.open("rb") as log:
            log.seek(self._from)
            return log.read().decode()

    def wait_ready(self, within_s: float = START_S) -> Up:
        return self.wait_said("ready after", within_s)

    def wait_said(self, words: str, within_s: float = START_S) -> Up:
        """Wait until it has printed `words`; it is killed when it does not."""

        def has_said() -> bool:
            assert self.process.poll() is None, self.said()
            return words in self.said()

        try:
            until(has_said, within_s, f"wahafleet up says {words!r}")
        except AssertionError as error:
            error.add_note(f"It said: {self.said()}")
            self.process.kill()
            self.process.wait()
            raise
        return self

    def end(self, number: signal.Signals = signal.SIGINT, within_s: float = 40) -> int:
        """Signal it and wait; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(within_s)

    def processes(self) -> dict[int, str]:
        """Everything that belongs to it and still lives, by number, found without asking it."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            # PostgreSQL writes over its environment, but its command line names the folder.
            ours = self.mark.encode() in environment.split(b"\0") or str(self.data) in command
            if ours and state != "Z" and int(entry.name) != os.getpid():
                found[int(entry.name)] = command.strip()
        return found

    def pid(self, name: str) -> int:
        """The process number of the part `name` at this moment."""
        return int(json.loads((self.data / "run" / f"{name}.json").read_text())["pid"])

    def run(self, *arguments: str, **keywords: Any) -> subprocess.CompletedProcess[str]:
        """A verb of the command, from another terminal of the same person."""
        return subprocess.run(
            [WAHAFLEET, *arguments], env=self.env, capture_output=True, text=True, timeout=60, **keywords
        )

    def client(self) -> Client:
        return Client(self.url)


class Client:
    """The first user's scripts."""

    transport_errors = (httpx.TransportError,)

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=f"{url}/api/v1", timeout=40, trust_env=False)
        answer = self.http.post("/auth/login", json={"email": EMAIL, "password": PASSWORD})
        answer.raise_for_status()
        # A script sends no cookie; one that does counts as a browser and gets lower-case statuses.
        self.http.cookies.clear()
        self.http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def create(self, alias: str, **headers: str) -> dict[str, Any]:
        answer = self.http.post("/chips", json={"alias": alias}, headers=headers)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def chip(self, chip_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/chips/{chip_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def chips(self) -> list[dict[str, Any]]:
        return list(self.http.get("/chips").raise_for_status().json())

    def qr(self, chip_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/chips/{chip_id}/qr")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait_qr(self, chip_id: str, within_s: float = 60) -> str:
        try:
            return until(lambda: str(self.qr(chip_id)["qr"] or ""), within_s, "a QR code is shown")
        except AssertionError as error:
            error.add_note(self.http.get(f"/chips/{chip_id}/explain").text)
            raise

    def wait_status(self, chip_id: str, status: str, within_s: float = 60) -> dict[str, Any]:
        def has_it() -> dict[str, Any] | None:
            chip = self.chip(chip_id)
            return chip if chip["status"] == status else None

        return until(has_it, within_s, f"the chip is {status}") or {}

    def delete(self, chip_id: str) -> None:
        assert self.http.delete(f"/chips/{chip_id}").status_code == 204

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
