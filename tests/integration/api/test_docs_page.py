"""The page that shows the document, in a real browser: complete, and asking nobody but us."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from api.app import create_app
from core.settings import load
from tests.integration.api.conftest import CHEAP, environment
from tests.integration.api.served import serving

# The strictest policy that a page with files of its own can have; what the API itself sends may not be laxer.
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'"


@pytest.fixture
def site(database_url: str) -> Iterator[str]:
    app = create_app(load(environment(database_url, None)), hasher=CHEAP)
    inner = app.asgi_handler

    async def with_policy(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await inner(scope, receive, sending)

    app.asgi_handler = with_policy
    with serving(app) as url:
        yield url


def visited(url: str, folder: Path) -> tuple[str, list[str], str]:
    """The page's elements after its script has run, every address that it asked for, and the console."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no `chromium` on PATH: the page was not tried in a browser")
    log = folder / "net.json"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={folder / 'profile'}", "--no-first-run", "--disable-extensions"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [
        f"--log-net-log={log}",
        "--enable-logging=stderr",
        "--virtual-time-budget=20000",
        "--dump-dom",
    ]
    ran = subprocess.run(
        [*command, url],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "HOME": str(folder)},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    asked = []
    for event in json.loads(log.read_text("utf-8", "replace"))["events"]:
        told = event.get("params", {})
        # What the browser asks on its own account (its clock, its lists) has no origin, nor has a visit.
        if told.get("initiator") == origin or str(told.get("url", "")).startswith(origin):
            asked.append(str(told.get("url", "")))
    return ran.stdout, asked, "\n".join(re.findall(r".*CONSOLE.*", ran.stderr))


def test_every_route_and_answer_is_shown_and_nobody_else_is_asked(site: str, tmp_path: Path) -> None:
    document = httpx.get(f"{site}/schema").json()
    page, asked, console = visited(f"{site}/schema/docs", tmp_path)
    assert "could not be read" not in page
    assert console == ""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            [shown] = re.findall(
                rf'<details id="{operation["operationId"]}">(.*?)(?=<details id=|</main>)', page, re.S
            )
            assert f"{method.upper()}</span><code>{path}</code> {operation['summary']}" in _text(shown)
            assert re.findall(r'data-status="(\d+)"', shown) == list(operation["responses"])
            for status, answer in operation["responses"].items():
                for content in answer.get("content", {}).values():
                    example = content["example"]
                    text = (
                        example
                        if isinstance(example, str)
                        else json.dumps(example, indent=2, ensure_ascii=False)
                    )
                    assert text.replace("\r\n", "\n") in _text(shown).replace("\r\n", "\n"), (
                        operation,
                        status,
                    )
    assert {urlsplit(url).path for url in asked} >= {
        "/schema",
        "/schema/docs",
        "/schema/docs.js",
        "/schema/docs.css",
    }
    assert [url for url in asked if urlsplit(url).netloc != urlsplit(site).netloc] == []


def _text(html: str) -> str:
    for name, sign in (("lt", "<"), ("gt", ">"), ("quot", '"'), ("nbsp", "\u00a0"), ("amp", "&")):
        html = html.replace(f"&{name};", sign)
    return re.sub(r' class="[^"]*"', "", html)


def test_the_page_holds_no_script_and_no_style_of_its_own(site: str) -> None:
    answer = httpx.get(f"{site}/schema/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert not re.search(r"<style|<script(?![^>]*src=)|\son\w+=|style=|https?://", answer.text)
    assert httpx.get(f"{site}/schema/docs.js").headers["content-type"].startswith("text/javascript")
    assert httpx.get(f"{site}/schema/docs.css").headers["content-type"].startswith("text/css")
