"""Models that follow MovieLens-1M week by week against the same models left as they were after the first weeks.

    ctr-rec prepare data/movielens_1m --raw FOLDER --out logs/movielens_1m_weeks --every 7d --context 512 \\
        --start 2000-05-01 --end 2000-12-04
    python -m launch.cards.follow_days --periods logs/movielens_1m_weeks --frozen-after 4 --card launch/records/NAME

Each week is scored before it is trained on. "Frozen" is the checkpoint of the same run after the first weeks, which
scores all later ones: so the two arms of a model are equal up to there, and an arm of its own is not trained. One seed,
one epoch a week, the recipes' settings but smaller batches. Stopped anywhere, the same command goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ctr_rec.evaluate.days import Days
from ctr_rec.evaluate.main import score
from ctr_rec.schema.periods import Periods, load_periods, period_log
from ctr_rec.sharding.group import open_group
from launch.cards.curves import Curve, draw
from launch.cards.jobs import call, card_option, config_of, new_folder

ROOT = Path("runs/card_follow_days")
RECIPES = "launch/recipes/movielens.py"
PACKED = {"data.batches.tokens": "4096"}
MODELS: Mapping[str, Mapping[str, str]] = {
    "grab": PACKED,
    "hstu": PACKED,
    "din": {"data.batches.impressions": "512"},
}
# Every checkpoint stays, so that any week's can be scored later.
SETTINGS = {
    "train.epochs": "1",
    "train.threads": "1",
    "validation.patience": "null",
    "checkpoint.keep": "1000",
}
METRICS = ("auc", "gauc")


@dataclass(frozen=True)
class Followed:
    """One model that follows the periods, and what its frozen twin scores."""

    model: str
    folder: Path
    periods: Path

    def run(self, frozen_after: int) -> None:
        """Follows, or goes on; then lets the checkpoint after `frozen_after` periods score the later ones."""
        known = load_periods(self.periods)
        if not self._done(known):
            resume = ["--resume"] if self.folder.exists() else []
            settings = {**SETTINGS, **MODELS[self.model]}
            sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
            recipe = f"{RECIPES}:{self.model}"
            call(
                self.folder,
                "train",
                recipe,
                "--follow-days",
                str(self.periods),
                *sets,
                "--run-dir",
                str(self.folder),
                *resume,
            )
        self._freeze(known, frozen_after)
        print(f"done: {self.folder}", flush=True)

    def followed(self) -> list[dict[str, Any]]:
        return Days(self.folder).lines()

    def frozen(self, after: int) -> list[dict[str, Any]]:
        return Days(self._twin(after)).lines()

    def _done(self, known: Periods) -> bool:
        return len(self.followed()) == len(known.periods) and all("stages" in line for line in self.followed())

    def _twin(self, after: int) -> Path:
        return self.folder / f"frozen-{after}"

    def _freeze(self, known: Periods, after: int) -> None:
        later, twin = known.periods[after:], Days(self._twin(after))
        self._twin(after).mkdir(exist_ok=True)
        checkpoint = self.followed()[after - 1]["checkpoint"]
        with open_group("cpu") as group:
            for period in later[len(twin.lines()) :]:
                log = Path(period_log(self.periods, period))
                found = score(self.folder, "train", checkpoint, log, group)
                twin.scored(period, found.checkpoint.step, found.predictions, found.unseen)


def mean(lines: Sequence[Mapping[str, Any]], metric: str) -> float:
    """Over periods, weighted by impressions; without those in which it is undefined."""
    known = [(line[metric], line["impressions"]) for line in lines if line[metric] is not None]
    return sum(value * count for value, count in known) / sum(count for _, count in known)


def table(jobs: Sequence[Followed], after: int) -> str:
    """Means over the periods that both arms scored."""
    lines = ["| model | arm | AUC | GAUC | impressions with unseen ids |", "|---" * 5 + "|"]
    for job in jobs:
        for arm, found in (("followed", job.followed()[after:]), ("frozen", job.frozen(after))):
            cells = [f"{mean(found, metric):.4f}" for metric in METRICS]
            lines.append(f"| {job.model} | {arm} | {' | '.join(cells)} | {mean(found, 'unseen_ids'):.2%} |")
    return "\n".join(lines) + "\n"


def curves(jobs: Sequence[Followed], after: int, metric: str) -> dict[str, list[Curve]]:
    """The metric by number of the period, a curve per arm, by `model arm`."""
    found = {}
    for job in jobs:
        for arm, lines in (("followed", job.followed()[after:]), ("frozen", job.frozen(after))):
            values = tuple(math.nan if line[metric] is None else line[metric] for line in lines)
            found[f"{job.model} {arm}"] = [Curve(tuple(float(after + k + 1) for k in range(len(lines))), values)]
    return found


@click.command()
@click.option("--periods", type=click.Path(path_type=Path, exists=True), required=True, help="Of `prepare --every`.")
@click.option("--model", "models", type=click.Choice(list(MODELS)), multiple=True, default=list(MODELS))
@click.option("--frozen-after", type=click.IntRange(min=1), default=4, show_default=True, help="Periods.")
@card_option
def main(periods: Path, models: tuple[str, ...], frozen_after: int, card: Path) -> None:
    """Run what is not done yet and write the card."""
    if frozen_after >= len(load_periods(periods).periods):
        raise click.UsageError(f"--frozen-after {frozen_after}: {periods} has no period behind that one")
    jobs = [Followed(model, ROOT / periods.name / model, periods) for model in models]
    for job in jobs:
        job.run(frozen_after)
    new_folder(card)
    for metric in METRICS:
        draw(
            curves(jobs, frozen_after, metric),
            card / f"{metric}.svg",
            "period",
            f"{metric.upper()} before training on it",
            panel=lambda name: name.split()[0],
        )
    (card / "table.md").write_text(table(jobs, frozen_after))
    plain = {
        "frozen_after": frozen_after,
        "periods": load_periods(periods).model_dump(mode="json"),
        "configs": {job.model: config_of(job.folder) for job in jobs},
        "followed": {job.model: job.followed() for job in jobs},
        "frozen": {job.model: job.frozen(frozen_after) for job in jobs},
    }
    (card / "results.json").write_text(json.dumps(plain, indent=1) + "\n")
    print(f"table, days and plots: {card}", flush=True)


if __name__ == "__main__":
    main()
