"""Runs inside a namespace, as a program of its own.

serve PORT...                 say back what is told, on TCP and UDP; prints `ready`
reach "tcp ADDRESS PORT"...   prints which of them answered within a second, as JSON
hold ADDRESS PORT             connects, prints `ready`, then says a line for each line it is given and prints
                              `same`, `other` or `silence`
tunnel ADDRESS PORT USER PW   CONNECT through a guard; then prints what comes back for each line it is given
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import sys

_WAIT_S = 1.0


def _tell(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


class _Udp(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(data, addr)


async def _serve(ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    for port in ports:
        await asyncio.start_server(_echo, ["0.0.0.0", "::"], port)
        await loop.create_datagram_endpoint(_Udp, local_addr=("::", port))
    _tell("ready\n")
    await asyncio.Event().wait()


async def _reached(target: str) -> bool:
    kind, address, port = target.split(" ")
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(_WAIT_S):
            await loop.sock_connect(sock, socket.getaddrinfo(address, int(port), family)[0][4])
            # A guard answers nonsense with a refusal, the others say it back: any answer is one.
            await loop.sock_sendall(sock, b"is anybody there\r\n\r\n")
            return bool(await loop.sock_recv(sock, 100))
    except (TimeoutError, OSError):
        return False
    finally:
        sock.close()


async def _reach(targets: list[str]) -> None:
    found = await asyncio.gather(*map(_reached, targets))
    _tell(json.dumps(dict(zip(targets, found, strict=True))))


async def _hold(address: str, port: int) -> None:
    reader, writer = await asyncio.open_connection(address, port)
    _tell("ready\n")
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
        writer.write(line)
        try:
            async with asyncio.timeout(_WAIT_S):
                _tell("same\n" if await reader.readline() == line else "other\n")
        except (TimeoutError, OSError):
            _tell("silence\n")


def _tunnel(address: str, port: int, user: str, password: str) -> None:
    try:
        with socket.create_connection((address, port), 5) as sock:
            basic = base64.b64encode(f"{user}:{password}".encode()).decode()
            head = f"CONNECT echo.whatsapp.net:443 HTTP/1.1\r\nProxy-Authorization: Basic {basic}\r\n\r\n"
            sock.sendall(head.encode())
            said = sock.recv(4096).decode()
            if " 200 " not in said:
                _tell(f"{said.splitlines()[0]}\n")
                return
            for line in sys.stdin:
                sock.sendall(line.encode())
                _tell(sock.recv(4096).decode())
    except OSError as error:
        _tell(f"{type(error).__name__}\n")


def main() -> None:
    verb, *rest = sys.argv[1:]
    if verb == "serve":
        asyncio.run(_serve([int(port) for port in rest]))
    elif verb == "reach":
        asyncio.run(_reach(rest))
    elif verb == "hold":
        asyncio.run(_hold(rest[0], int(rest[1])))
    else:
        _tunnel(rest[0], int(rest[1]), *rest[2:])


if __name__ == "__main__":
    main()
