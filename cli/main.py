"""The `wahafleet` command: one refusal is one clear sentence, and no traceback reaches anybody."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from cli import failures
from cli.audit import audit
from cli.chip import chip
from cli.container import container
from cli.doctor import doctor
from cli.document import openapi, problems
from cli.explain import causes, explain
from cli.fleet import fleet
from cli.guard import guard
from cli.jobspec import jobspec
from cli.key import key
from cli.orphans import orphans
from cli.parts import api, daemon, egress, migrate
from cli.phone import phone
from cli.plan import plan
from cli.provider import provider
from cli.proxy import proxy
from cli.rollout import rollout
from cli.settings import settings
from cli.target import Target
from cli.up import up
from cli.user import user


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wahafleet")
@click.option(
    "--api", "url", metavar="URL", help="The wahafleet to talk to; else the newest one running here."
)
@click.pass_context
def wahafleet(context: click.Context, url: str | None) -> None:
    """Run and operate a wahafleet: one WAHA container per user on a Nomad cluster."""
    context.obj = Target(url)


_PARTS = (up, api, daemon, egress, migrate, settings, doctor, jobspec, openapi, problems)
_VERBS = (user, key, plan, chip, container, fleet, rollout, provider, proxy, guard, orphans, audit, phone)
for command in (*_PARTS, *_VERBS):
    wahafleet.add_command(command)
for verb in (explain, causes):
    chip.add_command(verb)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Ends the process with 0, 1 (it could not be done) or 2 (asked in a wrong way)."""
    sys.exit(
        failures.guarded(lambda: wahafleet.main(args=arguments, prog_name="wahafleet", standalone_mode=False))
    )


if __name__ == "__main__":
    main()
