"""`python -m sandbox.nomad_double`: a double as a process of its own.

Prints one line of JSON when it answers, and ends on SIGTERM or SIGINT together with every task it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import msgspec

from sandbox.nomad_double.drivers import TaskDriver
from sandbox.nomad_double.inline_simulators import inline_simulators
from sandbox.nomad_double.running import running_nomad_double
from sandbox.nomad_double.settings import Delays, DoubleSettings, HeartbeatSettings, simulated_hosts


@click.command()
@click.option("--port", default=4646, show_default=True, help="Port of the HTTP API; 0 takes a free one.")
@click.option("--bind", default="127.0.0.1", show_default=True, help="Address of the HTTP API.")
@click.option("--hosts", default=1, show_default=True, help="Simulated hosts, on 127.0.0.1, 127.0.0.2, ...")
@click.option("--min-port", default=3100, show_default=True, help="First dynamic port of each host.")
@click.option("--max-port", default=3199, show_default=True, help="Last dynamic port of each host.")
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the state."
)
@click.option("--consul-url", default=None, help="Base URL of the Consul agent, e.g. http://127.0.0.1:8500.")
@click.option("--namespace", "namespaces", multiple=True, help="A namespace besides default; repeatable.")
@click.option("--nomad-version", default="1.10.5", show_default=True, help="The release to show.")
@click.option("--atomic-cas/--racy-cas", default=False, help="EnforceIndex as from 2.0.1 on, or as before.")
@click.option("--no-delays", is_flag=True, help="No artificial delays, for benchmarks.")
@click.option("--inline", is_flag=True, help="Every task is a WAHA simulator inside this process.")
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    help="Jobs' delays, heartbeats and drains take this many times less.",
)
@click.option("--heartbeat-ttl", default=10.0, show_default=True, help="min_heartbeat_ttl, in seconds.")
@click.option("--heartbeat-grace", default=10.0, show_default=True, help="heartbeat_grace, in seconds.")
@click.option("--token", default="", envvar="NOMAD_DOUBLE_TOKEN", help="Management token; switches ACLs on.")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=(str, click.Path(exists=True, dir_okay=False, path_type=Path)),
    metavar="TOKEN FILE",
    help="A further token and the HCL policy of what it may do; repeatable.",
)
@click.option("--seed", type=int, default=None, help="Seed of every random choice.")
def main(
    port: int,
    bind: str,
    hosts: int,
    min_port: int,
    max_port: int,
    data: Path,
    consul_url: str | None,
    namespaces: tuple[str, ...],
    nomad_version: str,
    atomic_cas: bool,
    no_delays: bool,
    inline: bool,
    speed: float,
    heartbeat_ttl: float,
    heartbeat_grace: float,
    token: str,
    policies: tuple[tuple[str, Path], ...],
    seed: int | None,
) -> None:
    """Run a double of Nomad."""
    settings = DoubleSettings(
        hosts=simulated_hosts(hosts, min_dynamic_port=min_port, max_dynamic_port=max_port),
        namespaces=("default", *(name for name in namespaces if name != "default")),
        delays=Delays.none() if no_delays else Delays(),
        version=nomad_version,
        atomic_cas=atomic_cas,
        speed=speed,
        heartbeats=HeartbeatSettings(min_ttl_s=heartbeat_ttl, grace_s=heartbeat_grace),
        token=token,
        tokens=_tokens(policies),
        seed=seed,
    )
    problems = settings.problems()
    if problems:
        raise click.UsageError("; ".join(problems))
    try:
        with contextlib.ExitStack() as stack:
            drivers = {"raw_exec": stack.enter_context(inline_simulators())} if inline else None
            asyncio.run(_serve(settings, data, bind, port, consul_url, drivers))
    except OSError as error:
        raise click.ClickException(
            f"cannot listen on {bind}:{port} ({error.strerror}); choose another --port"
        ) from error


def _tokens(policies: tuple[tuple[str, Path], ...]) -> dict[str, tuple[str, ...]]:
    tokens: dict[str, tuple[str, ...]] = {}
    for token, file in policies:
        tokens[token] = (*tokens.get(token, ()), file.read_text())
    return tokens


async def _serve(
    settings: DoubleSettings,
    data: Path,
    bind: str,
    port: int,
    consul_url: str | None,
    drivers: Mapping[str, TaskDriver] | None,
) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with running_nomad_double(
        settings, data_dir=data, bind=bind, port=port, drivers=drivers, consul_url=consul_url
    ) as running:
        ready = {
            "address": running.url,
            "version": settings.version,
            "hosts": [{"name": host.name, "address": host.address} for host in settings.hosts],
        }
        sys.stdout.write(msgspec.json.encode(ready).decode() + "\n")
        sys.stdout.flush()
        await ended.wait()


if __name__ == "__main__":
    main()
