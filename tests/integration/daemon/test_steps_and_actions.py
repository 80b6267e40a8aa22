"""Nothing that the daemon does is left out of the crash cases: each step and each action has a story, or a reason."""

from __future__ import annotations

import typing

from core.domain.actions import ChipAction, ContainerAction
from daemon.announce import Step
from tests.integration.daemon.stories import STORIES

NO_STORY = {
    "AdoptJob": (
        "what the next daemon does when one was killed at `effect_done RegisterJob`: an entry in our own books"
    ),
    **dict.fromkeys(
        ("AskSeat", "LeaveSeat", "SettleSeat"),
        "one guarded statement in our own books; whoever looks next asks, leaves or settles as if it had not been",
    ),
    **dict.fromkeys(
        ("RewriteSession", "LogoutSession"),
        "a start like `RestartSession`, whose story is killed before and after it: the try is on record before "
        "the call, and consent stands in the wish until the chip was seen connected",
    ),
    **dict.fromkeys(
        ("AssignLabel", "ReleaseLabel", "ReadExit"),
        "one guarded statement in our own books, behind a look that changes nothing: whoever looks next finds the "
        "label or the reading, or does it as if it had not been",
    ),
    "RouteSession": (
        "a config written to a stopped session, compared at every look: whoever looks next finds it, or writes it again"
    ),
}


def _reached() -> tuple[set[str], set[str]]:
    """Names of the steps and of the actions that some story is killed at."""
    words = [step.split() for story in STORIES.values() for step in story.killed_at or story.steps]
    return {word[0] for word in words}, {word[1] for word in words if len(word) > 1}


def test_every_kind_of_step_has_a_story() -> None:
    assert _reached()[0] == {step.value for step in Step}


def test_every_action_has_a_story_or_a_reason() -> None:
    actions = {
        action.__name__ for action in (*typing.get_args(ContainerAction), *typing.get_args(ChipAction))
    }
    assert len(actions) > 10
    assert _reached()[1] | set(NO_STORY) == actions
    assert _reached()[1] & set(NO_STORY) == set(), "it has a story: no reason is needed"
