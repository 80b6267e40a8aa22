"""`wahafleet up`: the whole system on this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from sandbox.up.plan import Driver, Egress, Kind, Options, Simulators


class PortRange(click.ParamType[tuple[int, int]]):
    """`FIRST-LAST`, as a pair of numbers."""

    name = "FIRST-LAST"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no range such as 3100-3199", param, ctx)
        return int(found[1]), int(found[2])


def _choice(values: type[Kind | Driver | Simulators | Egress]) -> click.Choice[str]:
    return click.Choice([value.value for value in values])


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the API.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port of the API."
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that keeps everything over restarts.  [default: /var/tmp/wahafleet-<your user number>]",
)
@click.option(
    "--nomad", type=_choice(Kind), default="auto", show_default=True, help="auto: real when on PATH."
)
@click.option(
    "--consul", type=_choice(Kind), default="auto", show_default=True, help="auto: real when on PATH."
)
@click.option("--driver", type=_choice(Driver), default="auto", show_default=True, help="auto: raw_exec.")
@click.option("--hosts", type=int, default=1, show_default=True, help="Simulated hosts, 100 users each.")
@click.option(
    "--ports",
    type=PortRange(),
    default="3100-3199",
    show_default=True,
    help="Ports of each host; with a real Nomad of the first, and the next ones follow.",
)
@click.option("--simulators", type=_choice(Simulators), default="auto", show_default=True)
@click.option(
    "--speed",
    type=float,
    default=1.0,
    show_default=True,
    help="Speed of the simulators' clock (QR rotation).",
)
@click.option(
    "--egress",
    type=_choice(Egress),
    default="auto",
    show_default=True,
    help="How chips leave. auto: through a guard on each host.",
)
@click.option("--no-delays", is_flag=True, hidden=True, help="Doubles without delays, for bench/.")
def up(
    host: str,
    port: int,
    data: Path | None,
    nomad: str,
    consul: str,
    driver: str,
    hosts: int,
    ports: tuple[int, int],
    simulators: str,
    speed: float,
    egress: str,
    *,
    no_delays: bool,
) -> None:
    """Run everything on this machine: databases, Nomad, Consul, API and daemon. Ctrl-C ends it."""
    from sandbox.postgres import default_data_folder
    from sandbox.up.run import run

    options = Options(
        nomad=Kind(nomad),
        consul=Kind(consul),
        driver=Driver(driver),
        hosts=hosts,
        ports=ports,
        simulators=Simulators(simulators),
        speed=speed,
        egress=Egress(egress),
        delays=not no_delays,
        storage_dsn=os.environ.get("WAHAFLEET_STORAGE_DSN", ""),
    )
    run(options, host=host, port=port, data=data or default_data_folder(), echo=click.echo)
