"""The runs behind a card: each is trained and scored once, goes on where it was stopped, a few at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

JOBS = int(os.environ.get("JOBS", "2"))
OWN = ("data.log", "train.seed", "train.epochs")
"""Settings of a run that a card of several logs, seeds or epochs chooses itself."""


@dataclass(frozen=True)
class Trained:
    """A recipe with some settings in a run folder. scored: splits that `evaluate` scores at its end, once each.

    beside: the network that the model was trained with is scored too, in a folder of the run's.
    """

    folder: Path
    recipe: str
    settings: Mapping[str, str] = field(default_factory=dict)
    scored: tuple[str, ...] = ("valid", "test")
    beside: bool = False

    @property
    def done(self) -> bool:
        return _ended(self.folder) and not self._to_score()

    def run(self) -> None:
        """Trains (or goes on), then scores what is not scored yet."""
        if not _ended(self.folder):
            self._train()
        for split, branch in self._to_score():
            call(self.folder, "evaluate", str(self.folder), "--split", split, *branch)

    def _to_score(self) -> list[tuple[str, list[str]]]:
        """Splits that have no metrics yet, with the words that name the branch."""
        found = [(split, []) for split in self.scored if not _metrics(self.folder, split).is_file()]
        beside = self.scored if self.beside else ()
        missing = [split for split in beside if not _metrics(self.folder / "beside", split).is_file()]
        return [*found, *((split, ["--branch", "beside"]) for split in missing)]

    def _train(self) -> None:
        saved = any(self.folder.glob("checkpoints/step-*/manifest.json"))
        if self.folder.exists() and not saved:
            shutil.rmtree(self.folder)
        settings = {**self.settings, "train.threads": "1"}
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        resume = ["--resume"] if saved else []
        call(self.folder, "train", self.recipe, *sets, "--run-dir", str(self.folder), *resume)


@dataclass(frozen=True)
class Scored:
    """A scorer without a network over a prepared log, in a run folder."""

    folder: Path
    scorer: str
    log: str

    @property
    def done(self) -> bool:
        return all(_metrics(self.folder, split).is_file() for split in ("valid", "test"))

    def run(self) -> None:
        call(self.folder, "predict", "--scorer", self.scorer, "--log", self.log, "--run-dir", str(self.folder))


@dataclass(frozen=True)
class Cut:
    """A trained run scored on each impression's newest events alone, once for every number in `histories`."""

    folder: Path
    split: str
    histories: tuple[int, ...]

    def metrics(self, history: int) -> Path:
        return _metrics(self.folder, f"{self.split}-history-{history}")

    @property
    def done(self) -> bool:
        return all(self.metrics(history).is_file() for history in self.histories)

    def run(self) -> None:
        for history in self.histories:
            if not self.metrics(history).is_file():
                call(self.folder, "evaluate", str(self.folder), "--split", self.split, "--history", str(history))


def _metrics(folder: Path, split: str) -> Path:
    return folder / "metrics" / f"{split}.json"


def _ended(folder: Path) -> bool:
    """Whether training came to its end; a run asked to stop has not."""
    marker = folder / "clean-stop.json"
    return marker.is_file() and json.loads(marker.read_text())["end"] != "stopped"


def call(folder: Path, *arguments: str) -> None:
    """One `ctr-rec` command on one thread; its output goes to a file beside the runs, its failure ends the card."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder.parent / "output.log").open("a") as out:
        out.write(f"$ ctr-rec {' '.join(arguments)}\n")
        out.flush()
        subprocess.run(
            [sys.executable, "-m", "ctr_rec", *arguments], check=True, stdout=out, stderr=out, env=environment
        )


def run_all(wanted: Sequence[Trained | Scored | Cut]) -> None:
    """Runs what is not done yet, JOBS at a time, one line per finished run."""
    todo = [job for job in wanted if not job.done]
    print(f"{len(wanted) - len(todo)} runs done, {len(todo)} to go", flush=True)

    def one(job: Trained | Scored | Cut) -> None:
        job.run()
        print(f"done: {job.folder}", flush=True)

    with ThreadPoolExecutor(JOBS) as pool:
        list(pool.map(one, todo))


def _new(context: click.Context, parameter: click.Parameter, card: Path) -> Path:
    if card.exists():
        raise click.UsageError(f"{card} exists: cards are never edited; name a new folder")
    return card


card_option = click.option(
    "--card",
    type=click.Path(path_type=Path),
    required=True,
    callback=_new,
    help="New folder below launch/records.",
)


def said(texts: Sequence[str], option: str, own: Collection[str] = ()) -> dict[str, str]:
    """KEY=VALUE texts as a mapping. Raises UsageError for a text without a key or a value, and for a key that was said
    before or that the card sets itself: own.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if not key or not value:
            raise click.UsageError(f"{option} expects KEY=VALUE, got {text!r}")
        if key in found:
            raise click.UsageError(f"{option} says {key} twice; say it once")
        if key in own:
            raise click.UsageError(f"{option} {key}: the card sets that itself; leave it out")
        found[key] = value
    return found


def environment_of(run: Path) -> dict[str, Any]:
    """What a finished run was trained with and on, without its command line."""
    environment = json.loads((run / "environment.json").read_text())
    environment.pop("command", None)
    return environment


def config_of(run: Path) -> dict[str, Any]:
    """The config of a finished run."""
    return json.loads((run / "config.json").read_text())


def new_folder(card: Path) -> Path:
    """Makes the folder of a card. Raises FileExistsError where there is one: cards are never edited."""
    card.mkdir(parents=True)
    return card
