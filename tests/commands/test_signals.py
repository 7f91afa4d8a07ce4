"""SIGINT and SIGTERM let a command clean up and end; a second one kills."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from harness import command_line


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Those of the tests, put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_with_its_clean_up_done_and_the_next_one_would_kill(number, code):
    cleaned_up = []

    def command(_: object) -> int:
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            cleaned_up.append(signal.getsignal(number))
        return 0

    assert command_line.run(command) == code
    assert cleaned_up == [signal.SIG_DFL]
    assert signal.getsignal(number) is signal.SIG_DFL


def test_without_a_signal_the_handlers_are_as_they_were_before():
    before = signal.getsignal(signal.SIGTERM)
    assert command_line.run(lambda _: 0) == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_the_process_was_started_to_ignore_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def command(_: object) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return 0

    assert command_line.run(command) == 0
