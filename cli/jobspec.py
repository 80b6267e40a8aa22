"""`wahafleet jobspec`: keep the compiled jobspecs and their HCL together."""

from __future__ import annotations

import os

import click

from core import jobspecs
from core.clients.jobspec_compiler import JobspecCompiler
from core.domain.jobspec_template import JobspecError
from core.errors import DependencyError


@click.group()
def jobspec() -> None:
    """Compile and check the Nomad jobs that are registered for users."""


@jobspec.command("compile")
@click.option(
    "--nomad-addr",
    envvar="NOMAD_ADDR",
    default="http://127.0.0.1:4646",
    show_default=True,
    help="HTTP API of a Nomad agent; any will do, nothing is registered. NOMAD_TOKEN is sent when set.",
)
@click.option("--ca-file", envvar="NOMAD_CACERT", default=None, help="CA bundle for an https address.")
def compile_(nomad_addr: str, ca_file: str | None) -> None:
    """Have Nomad parse every jobspec and write the JSON and the sum file beside it."""
    token = os.environ.get("NOMAD_TOKEN") or None
    try:
        with JobspecCompiler(nomad_addr, token=token, ca_file=ca_file) as compiler:
            version = compiler.nomad_version()
            # All are parsed before any is written, so that a mistake in one leaves the folder as it was.
            made = {}
            for stem in jobspecs.STEMS:
                try:
                    made[stem] = compiler.compile(jobspecs.paths(stem).hcl.read_text("utf-8"))
                except JobspecError as error:
                    raise click.ClickException(f"jobspecs/{stem}.nomad.hcl: {error}") from error
    except (DependencyError, OSError, ValueError) as error:
        raise click.ClickException(f"Nothing was compiled. {error}") from error
    for stem, template in made.items():
        for path in jobspecs.write(stem, template, version):
            click.echo(f"{path.name} written (Nomad {version})")


@jobspec.command()
def check() -> None:
    """Fail when a compiled jobspec does not belong to its HCL."""
    problems = [problem for stem in jobspecs.STEMS if (problem := jobspecs.disagreement(stem))]
    if problems:
        raise click.ClickException("\n".join(problems))
    for stem in jobspecs.STEMS:
        click.echo(f"{stem}: compiled with Nomad {jobspecs.compiled_with(stem)}, up to date")
