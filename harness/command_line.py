"""How commands read `key=value` arguments, what they print on, and how errors become one line and an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TextIO, cast

from rich.console import Console

from harness.api import ConfigError, HarnessError, near_matches, one_line

_WIDTH_OF_A_FILE = 120


def options(arguments: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Arguments such as `workload=a,b` as a mapping. Raises ConfigError for another form or an unknown key."""
    found = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ConfigError(f"{argument!r} is no key=value.")
        if key not in known:
            raise ConfigError(f"there is no option {key!r} here. {near_matches(key, known)}")
        found[key] = value
    return found


def names(text: str) -> list[str]:
    """The names in a list such as `a,b`, each once."""
    return list(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))


def whole_number(given: Mapping[str, str], key: str, default: int) -> int:
    """The number from 1 on that `key` has, or `default`. Raises ConfigError for anything else."""
    written = given.get(key, str(default))
    if not written.isdecimal() or int(written) < 1:
        raise ConfigError(f"{key.upper()} is {written!r}. Use a whole number from 1 on.")
    return int(written)


class PlainConsole(Console):
    """The console of all commands: every text is shown as it is, and what cannot be shown ends nothing.

    Most of what is said is not ours (names, reasons, paths): nothing in it is markup, an emoji or highlighted. What the
    output cannot encode is written as an escape, and once it is closed or full, the rest goes unheard.
    """

    def __init__(
        self,
        file: TextIO | None = None,
        *,
        stderr: bool = False,
        width: int | None = None,
        record: bool = False,
        force_terminal: bool | None = None,
    ) -> None:
        super().__init__(
            file=cast(TextIO, _Output(file if file is not None else sys.stderr if stderr else sys.stdout)),
            width=width,
            record=record,
            force_terminal=force_terminal,
            markup=False,
            emoji=False,
            highlight=False,
        )


def wide_console() -> PlainConsole:
    """A console as wide as the terminal, or as a file of this project may be."""
    console = PlainConsole()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # In a pipe rich would take 80 columns, too few for a log that nobody has to fold.
        console.width = _WIDTH_OF_A_FILE
    return console


class _Output:
    """What is written goes to `stream`, as far as that takes it; None: a process may have been given no output."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:
        """That of the stream: boxes of tables are of ASCII where it has no others."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Hand the text on."""
        if self._stream is not None:
            try:
                self._stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
            except OSError:
                self._stop()
        return len(text)

    def flush(self) -> None:
        """Likewise."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except OSError:
                self._stop()

    def isatty(self) -> bool:
        """Whether a person may be looking."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """The stream's descriptor. Raises OSError where it has none."""
        if self._stream is None:
            raise io.UnsupportedOperation("no output")
        return self._stream.fileno()

    def _stop(self) -> None:
        """Nobody listens any more: what is in the buffer, and whatever is still written past us, goes nowhere."""
        with contextlib.suppress(OSError):  # without a descriptor there is nothing that could still be flushed
            descriptor = self.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
        self._stream = None


def what_went_wrong(error: HarnessError | OSError) -> str:
    """One line for a person: what our errors say, or what the operating system says and what to do about it."""
    if isinstance(error, HarnessError):
        return one_line(error)
    where = f"{error.filename}: " if error.filename else ""
    said = error.strerror or error
    return one_line(f"{where}{said}. Check the disk and its rights, and run the same command again.")


def complain(error: HarnessError | OSError) -> None:
    """Say on stderr what went wrong."""
    PlainConsole(stderr=True).print(f"error: {what_went_wrong(error)}", style="red", soft_wrap=True)


class Stopped(KeyboardInterrupt):
    """A signal has asked this process to end, as Ctrl-C does. `code`: the exit code that says so."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


def stopped_code(error: KeyboardInterrupt) -> int:
    """The exit code of a process that was asked to end."""
    return error.code if isinstance(error, Stopped) else 130


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """In this context the first SIGINT or SIGTERM raises Stopped, so that all is cleaned up; a second one kills.

    One that this process was started to ignore stays ignored. Elsewhere than in the main thread nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM)
        if (handler := signal.getsignal(number)) is not signal.SIG_IGN
    }

    def end(number: int, _: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(number)

    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is end:  # else one has come, and the next one kills, up to the very end
                signal.signal(number, handler)


def run(command: Callable[[Sequence[str]], int]) -> int:
    """Call `command` with the program's arguments: 2 after bad input or a bad disk, 130 or 143 after a signal."""
    try:
        with ended_by_signals():
            return command(sys.argv[1:])
    except (HarnessError, OSError) as error:
        complain(error)
        return 2
    except KeyboardInterrupt as error:
        return stopped_code(error)
