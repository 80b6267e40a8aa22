"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

from tests.scale import examples

# A slow machine is no failure of a rule; what fails is printed so that it can be run again as it was.
settings.register_profile("wahafleet", deadline=None, print_blob=True, max_examples=examples(100))
settings.load_profile("wahafleet")
