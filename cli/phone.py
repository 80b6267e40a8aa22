"""`wahafleet phone`: the phone that belongs to a simulated WhatsApp."""

from __future__ import annotations

import asyncio
import re

import click

from cli.chip import find_chip
from cli.container import path_part
from cli.failures import CommandError
from cli.target import Target


@click.group()
def phone() -> None:
    """A phone for simulated chips: works in the sandbox alone."""


@phone.command()
@click.argument("chip")
@click.option("--phone-number", metavar="+55...", help="Number of the phone; random when left out.")
@click.pass_obj
def scan(target: Target, chip: str, phone_number: str | None) -> None:
    """Scan the QR code that CHIP (its id or alias) shows now."""
    from core.domain.names import session_name
    from sandbox.waha import phone as simulated

    if phone_number is not None and not re.fullmatch(r"\+?[0-9]{8,15}", phone_number):
        raise CommandError(
            "--phone-number takes 8 to 15 digits with the country code, such as +5511999999999."
        )
    target.check()
    user_id, chip_id = asyncio.run(find_chip(target.database_url, chip))
    access = target.get(f"/containers/{path_part(user_id)}/access")
    if not access.get("port"):
        raise CommandError(f"the container of {chip} has no port yet; try again in a moment.")
    digits = phone_number.lstrip("+") if phone_number else None
    base_url = f"http://{access['address']}:{access['port']}"
    try:
        seen = asyncio.run(simulated.scan(base_url, access["api_key"], session_name(chip_id), digits))
    except simulated.PhoneError as error:
        raise CommandError(str(error)) from error
    number = f"+{seen.phone_number}" if seen.phone_number else "an unknown number"
    click.echo(f"{chip} scanned by {number}: {seen.status}")
