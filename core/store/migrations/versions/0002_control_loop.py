"""What the control loop remembers: rest and looks, isolation, orphans, guards' leases."""

from __future__ import annotations

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _control_loop()
    _rules()
    _orphans()
    _guard_leases()


def downgrade() -> None:
    """Each part takes back what its function added."""


def _control_loop() -> None:
    """Whether a user is at rest, and when a pass last looked."""


def _rules() -> None:
    """What the rules remember of a container."""


def _orphans() -> None:
    """What nobody explains."""


def _guard_leases() -> None:
    """What grants to guards rest on."""
