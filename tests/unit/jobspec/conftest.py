"""Hypothesis without its time limit per example: on a busy machine that is a coin, not a test."""

import hypothesis

hypothesis.settings.register_profile("jobspec", deadline=None)
hypothesis.settings.load_profile("jobspec")
