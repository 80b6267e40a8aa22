"""The `wahafleet` command."""

import click


@click.group()
def main() -> None:
    """Run and operate a wahafleet."""
