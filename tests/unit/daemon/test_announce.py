"""Steps on a pipe: silent outside tests, and a process waits where its reader wants it to."""

from __future__ import annotations

import os
import threading

import pytest

from daemon.announce import PipeSteps, Silent, Step, from_environment


def test_nothing_is_announced_unless_asked_for() -> None:
    steps = from_environment({})
    assert isinstance(steps, Silent)
    steps.announce(Step.CLAIMED, "u")


def test_steps_are_lines_and_wait_for_their_reader() -> None:
    step_out, step_in = os.pipe()
    ack_out, ack_in = os.pipe()
    env = {"WAHAFLEET_TEST_STEP_FD": str(step_in), "WAHAFLEET_TEST_ACK_FD": str(ack_out)}
    steps = from_environment(env)
    passed = threading.Event()

    def work() -> None:
        steps.announce(Step.EFFECT_DONE, "u", "RegisterJob")
        steps.announce(Step.STATUS_WRITTEN, "u")
        passed.set()

    worker = threading.Thread(target=work)
    worker.start()
    assert os.read(step_out, 100) == b"effect_done u RegisterJob\n"
    assert not passed.is_set()
    os.write(ack_in, b".")
    assert os.read(step_out, 100) == b"status_written u\n"
    os.close(ack_in)  # the reader goes away: nobody is kept waiting
    worker.join(5)
    assert passed.is_set()
    steps.announce(Step.RELEASED, "u")
    for descriptor in (step_out, step_in, ack_out):
        os.close(descriptor)


def test_a_descriptor_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError):
        from_environment({"WAHAFLEET_TEST_STEP_FD": "x"})


def test_without_an_ack_descriptor_nothing_waits() -> None:
    out, into = os.pipe()
    PipeSteps(into).announce(Step.OBSERVED, "u")
    assert os.read(out, 100) == b"observed u\n"
    os.close(out)
    os.close(into)
