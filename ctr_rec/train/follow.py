"""`ctr-rec train --follow-days`: period after period, first scored, then trained on.

Each period is scored by the checkpoint of the periods before it, by the code of `ctr-rec evaluate`: through the
vocabulary of that checkpoint, where ids that are new in the period are unknown ids, row 0, as they would be to a model
that serves. Growing first and scoring with new, untrained rows would show the model which ids the period holds often
enough for a row. Then the tables grow, and the run goes on as with `train --resume --grow`: a strategy's stages, epochs
and schedule begin again with each period. No strategy is named here.

Where a run stands is read from its last checkpoint alone. What is not in it is done again, to the same bits: scoring
reads the checkpoint, training begins or goes on from it, and a line of days.jsonl replaces that of the same period.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from ctr_rec.checkpoint.history import committed
from ctr_rec.checkpoint.manifest import read_manifest
from ctr_rec.config import load_recipe, override
from ctr_rec.errors import ConfigError
from ctr_rec.evaluate.days import Days
from ctr_rec.evaluate.main import Scored, score, score_split
from ctr_rec.schema.manifest import SPLITS, load_manifest
from ctr_rec.schema.periods import Period, Periods, load_periods, period_log
from ctr_rec.sharding.agreement import on_each, on_main
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.train.build import Built, check_context
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.main import fit
from ctr_rec.train.run import Run
from ctr_rec.train.strategies import stages
from ctr_rec.train.trainer import Outcome

TRAIN = SPLITS[0]
# Of the run's last checkpoint: it trained on a log that the first period grew from.
BEFORE_THE_FIRST = -1


def follow(recipe: str, overrides: list[str], periods: Path, run_dir: Path, resume: bool) -> int:
    """Follows the periods below a folder. Exit status 0 also when it was asked to stop and saved in time.

    Raises:
        CtrRecError: anything the user can mend, on every rank.
    """
    if any(text.startswith("data.log=") for text in overrides):
        raise ConfigError("--follow-days takes its logs from its folder, so data.log has no effect; remove it")
    run = override(load_recipe(recipe, Run), overrides)
    with open_group() as group:
        follow_periods(run, periods, RunFolder(run_dir), group, resume)
    return 0


def follow_periods(run: Run, periods: Path, folder: RunFolder, group: Group, resume: bool) -> str:
    """On this rank of an open group. Returns "finished", or "stopped" where it was asked to stop.

    resume: goes on where the run's last checkpoint stands: in a period, at its end, or on the log that the first
    period grew from.
    """
    return _Follower(run, periods, folder, group).follow(resume)


class _Follower:
    """One rank's view of a run that follows periods."""

    def __init__(self, run: Run, periods: Path, folder: RunFolder, group: Group) -> None:
        self.run, self.folder, self.group = run, folder, group
        self.root = periods
        self.known: Periods = on_each(group, lambda: load_periods(periods))
        self.days = Days(folder.path)
        _check(run, self.known, periods)
        on_main(group, lambda: _say_useless(run))

    def follow(self, resume: bool) -> str:
        reached = on_main(self.group, self._reached) if resume else None
        first = 0
        if reached is not None and reached != BEFORE_THE_FIRST:
            if self._train(reached, grow=False).end == "stopped":
                return "stopped"
            first = reached + 1
        for number in range(first, len(self.known.periods)):
            if number == 0 and reached is None:
                outcome = self._begin(resume)
            else:
                self._score(number)
                outcome = self._train(number, grow=True)
            if outcome.end == "stopped":
                return "stopped"
        on_main(self.group, self._finish)
        return "finished"

    def _reached(self) -> int | None:
        """The period of the last checkpoint; None where there is none. Raises ConfigError where it is of no period."""
        found = committed(self.folder.path) if self.folder.config.is_file() else []
        if not found:
            return None
        fingerprint = read_manifest(found[-1][1]).data_fingerprint
        for number, period in enumerate(self.known.periods):
            if period.fingerprint == fingerprint:
                return number
        if fingerprint in load_manifest(self._log(0)).grown_from:
            return BEFORE_THE_FIRST
        raise ConfigError(
            f"--resume: the last checkpoint of {self.folder.path} was trained on data with fingerprint {fingerprint}, "
            f"which is no period of {self.root} and no log that they grew from; follow the periods it was begun with, "
            "or choose another --run-dir"
        )

    def _begin(self, resume: bool) -> Outcome:
        """The first period, scored by the model that has only its start."""

        def first_score(built: Built) -> None:
            predictions, unseen = score_split(built, TRAIN, built.scored(TRAIN))
            on_main(self.group, lambda: self.days.scored(self.known.periods[0], 0, predictions, unseen))

        outcome = fit(self._on(0), self.folder, self.group, resume, at_start=first_score)
        self._trained(0, outcome)
        return outcome

    def _score(self, number: int) -> None:
        scored: Scored = score(self.folder.path, TRAIN, "last", Path(self._log(number)), self.group)
        period = self.known.periods[number]
        on_main(self.group, lambda: self.days.scored(period, scored.checkpoint.step, scored.predictions, scored.unseen))

    def _train(self, number: int, grow: bool) -> Outcome:
        outcome = fit(self._on(number), self.folder, self.group, resume=True, grow=grow)
        self._trained(number, outcome)
        return outcome

    def _trained(self, number: int, outcome: Outcome) -> None:
        if outcome.end != "stopped":
            position = outcome.position
            ran = on_main(self.group, lambda: _stages(self.folder, position.first_step))
            on_main(self.group, lambda: self.days.trained(self.known.periods[number], ran, position.step))

    def _on(self, number: int) -> Run:
        return self.run.model_copy(update={"data": self.run.data.model_copy(update={"log": self._log(number)})})

    def _log(self, number: int) -> str:
        period: Period = self.known.periods[number]
        return period_log(self.root, period)

    def _finish(self) -> None:
        self.days.draw()
        console = Console()
        console.print(self.days.table())
        console.print(f"days: {self.days.path}, drawn in days.svg beside it", highlight=False, soft_wrap=True)


def _check(run: Run, periods: Periods, where: Path) -> None:
    check_context(run, periods.context, where)
    if any(stage.restart is not None for stage in stages(run)):
        raise ConfigError(
            f"train.strategy={run.train.strategy} lets tables begin again within each log, so every period would "
            "forget what those before it taught; follow days with another strategy"
        )
    if any(stage.goes_on for stage in stages(run)):
        raise ConfigError(
            f"train.strategy={run.train.strategy} removes the second network when a validation range says so, and "
            "periods have none and grow; follow days with another strategy"
        )


def _say_useless(run: Run) -> None:
    if run.validation.patience is not None or run.validation.every is not None:
        Console(stderr=True).print(
            "warning: periods have no validation range (each is scored before it is trained on), so validation.every "
            f"and validation.patience have no effect: each period is trained for {run.train.epochs} epoch(s)",
            highlight=False,
            soft_wrap=True,
        )


def _stages(folder: RunFolder, after: int) -> list[dict[str, Any]]:
    """Stages that ended after a step."""
    ended = [line for line in folder.stage_lines() if line["step"] > after]
    return [{"name": x["name"], "steps": x["steps"], "seconds": round(x["seconds"], 3)} for x in ended]
