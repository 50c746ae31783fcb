"""Progress of a long command: a bar on a terminal, one line per interval elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar


class Progress:
    """Stages with a known number of steps. `quiet` says nothing at all.

    interval: seconds between two lines where the console is no terminal.
    """

    def __init__(self, console: Console | None = None, quiet: bool = False, interval: float = 10.0) -> None:
        self.console = console or Console(stderr=True)
        self._quiet = quiet
        self._interval = interval

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Opens a stage; yields a function that adds finished steps."""
        if self._quiet:
            yield lambda steps: None
        elif self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            with Bar(*columns, console=self.console, transient=True) as bar:
                task = bar.add_task(name, total=total)
                yield lambda steps: bar.advance(task, steps)
        else:
            yield from self._lines(name, total)

    def _lines(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        done, begun = 0, time.monotonic()
        said = begun

        def advance(steps: int) -> None:
            nonlocal done, said
            done += steps
            if time.monotonic() - said >= self._interval:
                said = time.monotonic()
                self.console.print(f"{name}: {done:,} of {total:,}, {said - begun:.0f} s")

        yield advance
        self.console.print(f"{name}: {done:,} in {time.monotonic() - begun:.1f} s")
