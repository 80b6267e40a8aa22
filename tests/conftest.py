"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# A slow machine is no failure of a rule; what fails is printed so that it can be run again as it was.
settings.register_profile("default", deadline=None, print_blob=True)
settings.register_profile("soak", deadline=None, print_blob=True, max_examples=5000)
settings.load_profile("default")
