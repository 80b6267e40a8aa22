"""Verbs that run one part of the system: `api`, `daemon`, `egress`, `migrate`."""

from __future__ import annotations

import click

from cli.target import Target


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
def api(host: str, port: int) -> None:
    """Run the API. Settings come from the environment: `wahafleet settings`."""
    from core import logging
    from core.settings import load
    from sandbox.up.machine import check_port

    loaded = load(part="api")
    logging.configure("api")
    check_port(host, port)
    # Imported last: whoever only has to correct a setting should not wait for a web framework.
    from api.server import serve

    serve(loaded, host, port)


@click.command()
def daemon() -> None:
    """Run a reconciler; several may share the work. Settings come from the environment."""
    from core import logging
    from core.settings import load

    loaded = load(part="daemon")
    logging.configure("daemon")
    from daemon.main import run

    run(loaded)


@click.command()
def egress() -> None:
    """Run the egress guard of one host. Settings come from the environment: `wahafleet settings`."""
    from core.settings import load

    loaded = load(part="egress")
    from egress.main import run

    run(loaded)


@click.command()
@click.pass_obj
def migrate(target: Target) -> None:
    """Bring the schema of WAHAFLEET_DATABASE_URL up to date; of the running sandbox when it is not set."""
    from core.store.migrate import upgrade

    click.echo(f"schema at revision {upgrade(target.database_url)}")
