"""What jobs that run side by side have to say: each into files of its own, which the head process reads and shows.

Launchers differ in where the output of a job goes, and several processes on one terminal garble it; a folder that all
machines share works for all. `said.txt` holds whole lines, `now.txt` how far the running trial is.
"""

from __future__ import annotations

import contextlib
import io
import threading
import time
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from harness.command_line import PlainConsole

_NOW_SECONDS = 1.0
_POLL_SECONDS = 0.5
_PLAIN_EVERY_SECONDS = 60.0
_SHOWN_AT_MOST = 12
_WIDTH = 200


class JobConsole(PlainConsole):
    """The console of a job among several. A full disk stops nothing: what could not be written is in `unsaid`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines = _Lines(folder / "said.txt")
        self._shown_at = -_NOW_SECONDS
        super().__init__(self._lines, width=_WIDTH)

    @property
    def unsaid(self) -> list[str]:
        """Lines that did not get into the file."""
        return "".join(self._lines.unsaid).splitlines()

    def show(self, line: Text) -> None:
        """Say where the job is now, in place of what was shown before."""
        if time.monotonic() - self._shown_at < _NOW_SECONDS:
            return
        self._shown_at = time.monotonic()
        with contextlib.suppress(OSError):
            (self._folder / "now.txt").write_text(line.plain + "\n", encoding="utf-8")

    def pause(self) -> None:
        """The job is nowhere now; a scheduler may put it back into its queue."""
        with contextlib.suppress(OSError):
            (self._folder / "now.txt").unlink(missing_ok=True)

    def end(self) -> None:
        """Nothing more comes from this job."""
        self.pause()
        with contextlib.suppress(OSError):
            (self._folder / "ended").touch()


class _Lines(io.StringIO):
    """Appends to a file, opened for each write: a network file system shows closed files to other machines."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.unsaid: list[str] = []

    def write(self, text: str) -> int:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError:
            self.unsaid.append(text)
        return len(text)


class JobsDisplay:
    """Shows what `count` jobs say under `folder`, as a context: their lines, and below them who is where.

    Elsewhere than on a terminal one line a minute says how many are done.
    """

    def __init__(self, console: Console, folder: Path, count: int) -> None:
        self._console = console
        self._folders = [folder / str(number) for number in range(count)]
        self._read = [0] * count
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._printed_at = time.monotonic()

    def __enter__(self) -> JobsDisplay:
        if self._live is not None:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._live is not None:
            self._live.stop()

    def _watch(self) -> None:
        while not self._over.wait(_POLL_SECONDS):
            self._look()
        self._look()

    def _look(self) -> None:
        for number, folder in enumerate(self._folders):
            with contextlib.suppress(OSError), (folder / "said.txt").open("rb") as file:
                file.seek(self._read[number])
                whole = file.read().rpartition(b"\n")[0]
                if whole:
                    self._read[number] += len(whole) + 1
                    self._console.print(whole.decode(errors="replace"), soft_wrap=True)
        ended = sum((folder / "ended").exists() for folder in self._folders)
        now = [line for folder in self._folders if (line := _line_of(folder / "now.txt"))]
        summary = f"{ended} of {len(self._folders)} studies done, {len(now)} in a trial"
        if self._live is not None:
            more = [f"... and {len(now) - _SHOWN_AT_MOST} more"] if len(now) > _SHOWN_AT_MOST else []
            lines = [*now[:_SHOWN_AT_MOST], *more, summary]
            self._live.update(Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines)), refresh=True)
        elif time.monotonic() - self._printed_at > _PLAIN_EVERY_SECONDS:
            self._printed_at = time.monotonic()
            self._console.print(summary)


def _line_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()  # it may be half written
    except OSError:
        return ""
