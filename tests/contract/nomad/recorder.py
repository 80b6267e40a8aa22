"""A Consul agent reduced to what Nomad's client needs of it: it answers, and remembers what it was told."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

_SELF = {
    "Config": {
        "Version": "1.20.1",
        "Datacenter": "dc1",
        "NodeName": "consul",
        "Server": True,
        "Revision": "",
    },
    "Member": {"Name": "consul", "Addr": "127.0.0.1", "Port": 8301, "Tags": {"build": "1.20.1"}},
    "DebugConfig": {"GRPCPorts": [-1]},
    "Meta": {},
}


class ConsulRecorder:
    """Services by id as they were registered last, and the ids that were deregistered."""

    def __init__(self) -> None:
        self.services: dict[str, dict[str, Any]] = {}
        self.deregistered: list[str] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path.startswith("/v1/agent/self"):
                    self._answer(_SELF)
                elif self.path.startswith("/v1/agent/services"):
                    self._answer({key: _as_listed(service) for key, service in recorder.services.items()})
                else:
                    self._answer({})

            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.partition("?")[0]
                if path == "/v1/agent/service/register":
                    service = json.loads(body)
                    recorder.services[service["ID"]] = service
                elif path.startswith("/v1/agent/service/deregister/"):
                    service_id = unquote(path.rpartition("/")[2])
                    recorder.services.pop(service_id, None)
                    recorder.deregistered.append(service_id)
                self._answer({})

            def log_message(self, format: str, *args: object) -> None:
                pass

            def _answer(self, value: object) -> None:
                data = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def of_alloc(self, alloc_id: str) -> list[dict[str, Any]]:
        return [service for key, service in self.services.items() if alloc_id in key]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _as_listed(service: dict[str, Any]) -> dict[str, Any]:
    return {
        "ID": service["ID"],
        "Service": service["Name"],
        "Tags": service.get("Tags") or [],
        "Meta": service.get("Meta") or {},
        "Port": service.get("Port", 0),
        "Address": service.get("Address", ""),
        "EnableTagOverride": False,
        "Weights": {"Passing": 1, "Warning": 1},
        "TaggedAddresses": {},
    }
