"""`wahafleet openapi` and `problems`: what a client of the API is written against."""

from __future__ import annotations

import json
from typing import Any

import click


@click.command()
def openapi() -> None:
    """Print the OpenAPI document, as `/schema` serves it. Needs no settings."""
    click.echo(json.dumps(document(), indent=1, ensure_ascii=False))


@click.command()
@click.option("--markdown", is_flag=True, help="As docs/errors.md has it.")
def problems(*, markdown: bool) -> None:
    """List every code that an error of the API can have."""
    from core.domain.problem_codes import PROBLEM_KINDS

    if markdown:
        click.echo(as_markdown(), nl=False)
        return
    for code, kind in PROBLEM_KINDS.items():
        click.echo(f"{kind.status} {code:<24} {kind.detail}")


def document() -> dict[str, Any]:
    """The OpenAPI document of an API with default settings."""
    from cryptography.fernet import Fernet

    from api.app import create_app
    from api.openapi import with_examples
    from core.settings import load

    # Nothing is opened: an application needs its settings to be there, and these lead nowhere.
    settings = load(
        {
            "WAHAFLEET_DATABASE_URL": "postgresql+asyncpg://nobody@127.0.0.1:1/none",
            "WAHAFLEET_SECRET_KEYS": Fernet.generate_key().decode(),
            "JWT_SECRET_KEY": Fernet.generate_key().decode(),
        },
        "api",
    )
    return with_examples(create_app(settings).openapi_schema.to_schema())


def as_markdown() -> str:
    """The text of docs/errors.md."""
    from core.domain.problem_codes import PROBLEM_KINDS

    ordered = sorted(PROBLEM_KINDS.items(), key=lambda item: item[1].status)
    rows = "".join(
        f"| {kind.status} | `{code}` | {kind.detail} | {kind.remedy} |\n" for code, kind in ordered
    )
    return f"{_HEAD}{rows}"


_HEAD = """# Errors of the API

Every refusal is `application/problem+json` (RFC 9457): `type` (`urn:wahafleet:problem:` and the code), `title`, `status`,
`detail`, `code`, `instance` (the path that was asked). `detail` is one sentence for people, Brazilian Portuguese, and may
change; `code` is what a program compares. 422 has `errors` besides, `[{field, message}]`, one for each bad field. 429 and
503 come with `Retry-After` in seconds.

Sentences with figures stand here with an example of them. Which route can give which status stands in `/schema`.
Written by `wahafleet problems --markdown`; a test compares.

| status | code | detail | what to do |
|---|---|---|---|
"""
