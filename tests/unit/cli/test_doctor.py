"""Each finding of `wahafleet doctor` is one sentence that says what to do."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import doctor
from cli.doctor import Finding, State
from cli.main import wahafleet
from core.settings_guard import guard_settings
from core.settings_reader import Reader

LOADED = """table inet waha_egress {
    chain input { type filter hook input priority filter - 10; policy accept; }
    chain forward { type filter hook forward priority filter - 10; policy accept; }
    chain from_containers { ip daddr 172.30.0.1 tcp dport 3128 accept }
}"""


def says(code: int, text: str) -> Callable[[Sequence[str]], tuple[int, str]]:
    return lambda _command: (code, text)


def missing(_command: Sequence[str]) -> tuple[int, str]:
    raise FileNotFoundError("nft")


@contextmanager
def answering(status: int, body: object) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def told(finding: Finding, state: State, *words: str) -> None:
    assert finding.state is state, finding
    for word in words:
        assert word in finding.text
    assert finding.text.endswith(".")


def test_a_firewall_that_is_loaded_missing_hidden_or_for_another_guard() -> None:
    told(doctor.firewall(says(0, LOADED), "172.30.0.1:3128"), State.OK)
    told(doctor.firewall(says(0, LOADED), "172.30.0.1:3129"), State.WRONG, "guard_port")
    told(doctor.firewall(says(0, "table inet waha_egress {\n}"), "172.30.0.1:3128"), State.WRONG)
    told(doctor.firewall(says(1, "Error: No such file"), "172.30.0.1:3128"), State.WRONG, "systemctl enable")
    told(doctor.firewall(says(1, "Operation not permitted"), "172.30.0.1:3128"), State.UNKNOWN, "root")
    told(doctor.firewall(missing, "172.30.0.1:3128"), State.WRONG, "install nftables")


def test_packets_between_containers(tmp_path: Path) -> None:
    told(doctor.between_containers(tmp_path), State.WRONG, "modprobe br_netfilter")
    (tmp_path / "bridge-nf-call-iptables").write_text("1\n")
    (tmp_path / "bridge-nf-call-ip6tables").write_text("0\n")
    told(doctor.between_containers(tmp_path), State.WRONG, "bridge-nf-call-ip6tables")
    (tmp_path / "bridge-nf-call-ip6tables").write_text("1\n")
    told(doctor.between_containers(tmp_path), State.OK)


def test_the_address_of_the_guard() -> None:
    told(doctor.address("127.0.0.1:3128"), State.OK)
    told(doctor.address("203.0.113.7:3128"), State.WRONG, "waha0")


def test_what_the_guard_says() -> None:
    with answering(200, {"status": "ready", "problems": []}) as place:
        told(doctor.guard(place), State.OK)
    with answering(503, {"status": "not ready", "problems": ["api", "full"]}) as place:
        told(doctor.guard(place), State.WRONG, "api, full", "runbook")
    told(doctor.guard(place), State.WRONG, "no guard answers")


def test_one_server_alone_and_three() -> None:
    with answering(200, ["10.0.0.1:4647"]) as place:
        told(doctor.servers(f"http://{place}", "", 60), State.WRONG, "180")
        told(doctor.servers(f"http://{place}", "", 180), State.OK, "one Nomad server")
    with answering(200, ["10.0.0.1:4647", "10.0.0.2:4647", "10.0.0.3:4647"]) as place:
        told(doctor.servers(f"http://{place}", "secret", 60), State.OK, "3 Nomad servers")
    with answering(403, "Permission denied") as place:
        told(doctor.servers(f"http://{place}", "", 60), State.UNKNOWN, "NOMAD_ADDR")


def test_margins_and_files() -> None:
    settings = guard_settings(Reader({"WAHAFLEET_GUARD_MARGIN_S": "5"}, None))
    told(doctor.leases(settings), State.WRONG, "WAHAFLEET_GUARD_MARGIN_S")
    told(doctor.leases(guard_settings(Reader({}, None))), State.OK, "90 s")
    told(doctor.files(10), State.OK)
    told(doctor.files(10**9), State.WRONG, "WAHAFLEET_GUARD_TUNNELS")


def test_it_ends_with_1_when_something_is_wrong_and_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAHAFLEET_DATABASE_URL", "postgresql+asyncpg://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("WAHAFLEET_GUARD_KEY", "ab" * 32)
    monkeypatch.setenv("NOMAD_TOKEN", "do-not-show-me")
    monkeypatch.setenv("NOMAD_ADDR", "http://127.0.0.1:1")
    monkeypatch.setenv("WAHAFLEET_GUARD_STATUS_LISTEN", "127.0.0.1:1")
    shown = CliRunner().invoke(wahafleet, ["doctor"], standalone_mode=False)
    assert shown.return_value == 1
    lines = shown.output.splitlines()
    assert len(lines) == 8
    assert {line.split()[0] for line in lines} <= {"ok", "wrong", "unknown"}
    assert "do-not-show-me" not in shown.output
    assert "ab" * 32 not in shown.output
