"""A chip's life as its owner sees it, on a running sandbox."""

from __future__ import annotations

import base64
import time

import httpx
import pytest

from tests.e2e.running import Client, Up, scratch, until
from tests.unit.waha_simulator.test_qr import decode

pytestmark = pytest.mark.xdist_group("sandbox")


def read_qr(data_url: str) -> str:
    """What a phone's camera would read."""
    return decode(base64.b64decode(data_url.partition(",")[2]))


def test_scanning_connects_the_chip_within_two_seconds_and_nobody_has_to_ask(
    sandbox: Up, client: Client
) -> None:
    chip = client.create("scanned")
    client.wait_qr(chip["id"])
    scanned = sandbox.run("phone", "scan", "scanned", "--phone-number", "+5511987654321")
    assert scanned.returncode == 0, scanned.stderr
    assert "WORKING" in scanned.stdout
    # From here on no client calls anything: what turns the chip is the webhook, and the daemon behind it.
    time.sleep(2)
    seen = client.chip(chip["id"])
    assert (seen["status"], seen["phone_number"]) == ("CONNECTED", "+5511987654321")
    assert seen["connected_at"] is not None
    again = sandbox.run("phone", "scan", chip["id"])
    assert again.returncode == 1
    assert len(again.stderr.splitlines()) == 1


def test_a_second_chip_of_a_user_shares_the_container(client: Client) -> None:
    first, second = client.create("one"), client.create("two")
    assert first["extra_data"]["waha_plus_port"] == second["extra_data"]["waha_plus_port"]
    client.wait_qr(second["id"])


def test_disconnect_and_reconnect_keep_the_credentials(sandbox: Up, client: Client) -> None:
    chip = client.create("kept")["id"]
    client.wait_qr(chip)
    assert sandbox.run("phone", "scan", chip).returncode == 0
    number = client.wait_status(chip, "CONNECTED", 5)["phone_number"]
    assert client.http.post(f"/chips/{chip}/disconnect").json()["status"] == "DISCONNECTED"
    until(
        lambda: client.chip(chip)["extra_data"]["waha_status"] in (None, "STOPPED"), 20, "the session stops"
    )
    assert client.chip(chip)["status"] == "DISCONNECTED"
    assert client.http.post(f"/chips/{chip}/reconnect").status_code == 200
    assert client.wait_status(chip, "CONNECTED", 20)["phone_number"] == number


def test_an_unscanned_qr_rotates_and_ends_and_reconnect_brings_a_new_one() -> None:
    with scratch() as folder:
        # Twenty times as fast: a set of six codes, 160 s long, is over after 8 s, and a chip buys two sets.
        up = Up(folder, "--nomad", "double", "--consul", "double", "--speed", "20")
        try:
            with up.wait_ready().client() as client:
                chip = client.create("slow phone")["id"]
                client.wait_qr(chip)
                codes: list[str] = []

                def spent() -> bool:
                    answer = client.qr(chip)
                    if answer["qr"] and answer["qr"] not in codes:
                        codes.append(answer["qr"])
                    return answer["status"] is None and "Clique em Conectar" in answer["message"]

                until(spent, 60, "the QR sets are spent")
                assert len({read_qr(code) for code in codes}) >= 3
                assert client.chip(chip)["status"] == "WAITING_QR"
                # Polling on buys nothing more, however long a forgotten tab goes on.
                for _ in range(10):
                    assert client.qr(chip)["qr"] is None
                    time.sleep(0.2)
                assert client.http.post(f"/chips/{chip}/reconnect").status_code == 200
                assert read_qr(client.wait_qr(chip, 20)) not in {read_qr(code) for code in codes}
        finally:
            up.end()


def test_the_operator_sees_the_container_in_words_and_as_json(sandbox: Up, client: Client) -> None:
    client.create("shown")
    table = sandbox.run("container", "show", "test@whago.com")
    assert table.returncode == 0, table.stderr
    assert "api_key" not in table.stdout
    found = sandbox.run(
        "--api", sandbox.url, "container", "show", "test@whago.com", "--secrets", "-o", "json"
    )
    assert '"api_key": "' in found.stdout
    unknown = sandbox.run("container", "show", "nobody@whago.com")
    assert unknown.returncode == 1
    assert len(unknown.stderr.splitlines()) == 1


def test_the_password_of_an_account_can_be_changed(sandbox: Up) -> None:
    account = {
        "name": "Outra Pessoa",
        "email": "outra@whago.com",
        "password": "Antes@12345",
        "phone": "+5511988887777",
    }

    def login(password: str) -> int:
        return httpx.post(f"{api}/login", json={"email": account["email"], "password": password}).status_code

    api = f"{sandbox.url}/api/v1/auth"
    assert httpx.post(f"{api}/register", json=account).status_code == 201
    weak = sandbox.run("user", "password", "outra@whago.com", input="weak\n")
    assert (weak.returncode, len(weak.stderr.splitlines())) == (1, 1)
    assert login("Antes@12345") == 200
    changed = sandbox.run("user", "password", "Outra@whago.com", input="Depois@12345\n")
    assert changed.returncode == 0, changed.stderr
    assert "Depois@12345" not in changed.stdout + changed.stderr
    assert (login("Depois@12345"), login("Antes@12345")) == (200, 401)
    assert sandbox.run("user", "password", "nobody@whago.com", input="Depois@12345\n").returncode == 1
