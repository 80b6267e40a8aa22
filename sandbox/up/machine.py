"""What this machine has: programs, free ports, processes."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from sandbox.free_ports import free_port
from sandbox.tether import is_alive
from sandbox.up.errors import SandboxError
from sandbox.up.plan import Program

_VERSION = re.compile(r"\bv?(\d+)\.(\d+)\.(\d+)")


def find_program(name: str) -> Program | None:
    """The program `name` on PATH with its version, None when it is not there."""
    path = shutil.which(name)
    if path is None:
        return None
    try:
        said = subprocess.run([path, "version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxError(
            f"{path} does not run ({error}); repair it, or use --{name} double to do without."
        ) from error
    found = _VERSION.search(said.stdout)
    return Program(path, tuple(map(int, found.groups())) if found else ())


def check_port(host: str, port: int) -> None:
    """Raises SandboxError when the API cannot listen on (host, port)."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror:
        raise SandboxError(f"{host} is no address of this machine; use --host 127.0.0.1.") from None
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        # As the server itself does: connections of an earlier run that still fade out do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except PermissionError:
            raise SandboxError(
                f"port {port} needs more rights than you have; use --port with a number above 1023."
            ) from None
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise SandboxError(f"{host} is no address of this machine; use --host 127.0.0.1.") from None
            raise SandboxError(
                f"port {port} on {host} is busy; stop what uses it or choose another with --port, for example "
                f"--port {free_port()}."
            ) from None


def check_hosts(count: int) -> None:
    """Raises SandboxError when one of 127.0.0.1 to 127.0.0.<count> does not answer here."""
    for number in range(1, count + 1):
        with socket.socket() as probe:
            try:
                probe.bind((f"127.0.0.{number}", 0))
            except OSError:
                raise SandboxError(
                    f"this machine does not answer on 127.0.0.{number}, so it can carry "
                    f"{number - 1} simulated host(s): use --hosts {max(1, number - 1)}."
                ) from None


def process_started(pid: int) -> str | None:
    """When process `pid` began, as a text that no later process of that number shares; None when it is gone."""
    if not is_alive(pid):
        return None
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        listed = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return listed.stdout.strip() or None


def end_process(pid: int, *, patience_s: float) -> bool:
    """SIGTERM, then SIGKILL after `patience_s`; True once the process is gone."""
    for ask, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 5.0)):
        try:
            os.kill(pid, ask)
        except ProcessLookupError:
            return True
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            if not is_alive(pid):
                return True
            time.sleep(0.02)
    return not is_alive(pid)
