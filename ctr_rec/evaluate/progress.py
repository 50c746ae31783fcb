"""How far scoring has come: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_PER_LINE = 10.0


class ScoringProgress:
    """Called with (batches done, batches in all). Silent where `main` is False."""

    def __init__(self, what: str, main: bool, console: Console | None = None) -> None:
        self._what = what
        self._main = main
        self._console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (main and self._console.is_terminal),
        )
        self._task = self._bar.add_task(what, total=None)
        self._started = self._said = time.monotonic()

    def __enter__(self) -> ScoringProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)
        moment = time.monotonic()
        if not self._bar.disable or not self._main or moment - self._said < SECONDS_PER_LINE:
            return
        self._said = moment
        left = (moment - self._started) / done * (total - done)
        self._console.print(
            f"{self._what}: {done:,} of {total:,} batches, about {left:,.0f} s left", highlight=False, soft_wrap=True
        )
