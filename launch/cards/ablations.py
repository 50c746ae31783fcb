"""Ablations: arms of a recipe file, each with a few settings changed, ours beside the paper's, and what is resolved.

Each arm is trained with seeds 1 to 3 and nothing is chosen among the arms. The smallest detectable difference stands
first, and a difference below it gets no sign. The paper's arms are another log's, so sizes do not carry over. A family
of arms makes its card with `make_card`; see grab_ablations.py and est_ablations.py.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctr_rec.config import load_recipe, override
from ctr_rec.evaluate.compare import Comparison, compare
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.train.run import Run
from launch.cards import cost
from launch.cards.jobs import Trained, config_of, environment_of, new_folder, run_all

SEEDS = (1, 2, 3)
# A two-sided test at 5 per cent finds a difference of so many standard errors with a power of 80 per cent.
POWER_80 = 2.8
_HALF_95 = 1.959964


@dataclass(frozen=True)
class Arm:
    """A function of the family's recipe file, with settings changed. paper: what the paper's table says of it."""

    recipe: str
    settings: Mapping[str, str] = field(default_factory=dict)
    paper: str = ""


@dataclass(frozen=True)
class Family:
    """arms: by name; all are paired with `whole`, one of them. heading: of the column with the paper's figures.

    shared: settings of all arms. root: folder of the runs.
    """

    recipes: str
    whole: str
    arms: Mapping[str, Arm]
    heading: str
    root: Path
    shared: Mapping[str, str] = field(default_factory=dict)

    def recipe(self, arm: str) -> str:
        return f"{self.recipes}:{self.arms[arm].recipe}"

    def settings(self, arm: str) -> dict[str, str]:
        return {**self.shared, **self.arms[arm].settings}

    def run(self, arm: str) -> Run:
        """What the arm trains, on the recipe's own log."""
        return override(load_recipe(self.recipe(arm), Run), [f"{k}={v}" for k, v in self.settings(arm).items()])


@dataclass(frozen=True)
class Entry:
    """One run: an arm with a seed."""

    arm: str
    job: Trained


def entries(family: Family, arms: Sequence[str], log: str, epochs: int, split: str) -> list[Entry]:
    """The whole is always among them, as all are paired with it. Runs of other logs or epochs lie in other folders."""
    scored = ("valid",) if split == "valid" else ("valid", "test")
    found = []
    for seed in SEEDS:
        for arm in dict.fromkeys((family.whole, *arms)):
            run = {"data.log": log, "train.seed": str(seed), "train.epochs": str(epochs)}
            folder = family.root / f"{Path(log).name}-{epochs}" / f"{arm}-{seed}"
            job = Trained(folder, family.recipe(arm), {**run, **family.settings(arm)}, scored=scored)
            found.append(Entry(arm, job))
    return found


@dataclass(frozen=True)
class Outcome:
    """Of one arm: its comparison with the whole, paired by impression and seed, clustered by user; None for the whole.

    parameters, request: dense ones, and FLOPs of a request of 60 candidates.
    """

    arm: str
    parameters: int
    request: float
    auc: tuple[float, ...]
    gauc: tuple[float, ...]
    comparison: Comparison | None

    def plain(self) -> dict[str, Any]:
        against = json.loads(self.comparison.to_json()) if self.comparison is not None else None
        return {**vars(self), "comparison": against}


def outcomes(family: Family, wanted: Sequence[Entry], split: str) -> list[Outcome]:
    """Read from finished runs."""
    runs: dict[str, list[Path]] = {}
    for one in wanted:
        runs.setdefault(one.arm, []).append(one.job.folder)
    rows = {arm: [Predictions.load(f / "predictions" / f"{split}.parquet") for f in each] for arm, each in runs.items()}
    found = []
    for arm, folders in runs.items():
        scored = [json.loads((f / "metrics" / f"{split}.json").read_text()) for f in folders]
        whole = family.whole
        comparison = None if arm == whole else compare(rows[whole], rows[arm], (whole, arm), split)
        auc = tuple(one["metrics"]["auc"] for one in scored)
        of = cost.read(arm, folders, split)
        found.append(Outcome(arm, of.dense, of.request, auc, of.gauc, comparison))
    return found


def detectable(found: Sequence[Outcome], metric: str) -> dict[str, float]:
    """Smallest difference to the whole that this log and these seeds resolve, by arm: POWER_80 standard errors.

    An error is made of that of users, from the interval of the paired difference, and that of training: the
    deviation of the difference over seeds, pooled over the arms, as three seeds alone say little about it [ours].
    """
    compared = {one.arm: one.comparison.difference(metric) for one in found if one.comparison is not None}
    variances = [one.seed_deviation**2 for one in compared.values() if not math.isnan(one.seed_deviation)]
    training = statistics.fmean(variances) if variances else 0.0
    errors = {}
    for arm, one in compared.items():
        users = (one.high - one.low) / (2 * _HALF_95)
        errors[arm] = math.sqrt(users**2 + training / len(one.per_seed))
    return {arm: POWER_80 * error for arm, error in errors.items()}


def report(family: Family, found: Sequence[Outcome], log: str, epochs: int, split: str) -> str:
    """What can be resolved comes first; a difference below it gets no sign."""
    smallest = {metric: detectable(found, metric) for metric in ("auc", "gauc")}
    seeds = max(len(one.auc) for one in found)
    what = f"`{log}`, {split}, {epochs} epochs at most, {seeds} seeds"
    lines = [f"{what}. Differences in 1e-5; GFLOPs per 60 candidates, without comparing contents.", ""]
    for metric, of in smallest.items():
        values = sorted(of.values())
        if values:
            span = f"{_units(values[0])} to {_units(values[-1])}, median {_units(statistics.median(values))}"
            lines.append(f"- smallest detectable difference of {metric.upper()} ({POWER_80} standard errors): {span}")
    whole = family.whole
    lines += [
        "",
        f"| arm | dense parameters | GFLOPs | AUC | GAUC | AUC - {whole} | detectable | GAUC - {whole} "
        f"| detectable | {family.heading} |",
    ]
    lines += ["|---" * 10 + "|"]
    for one in found:
        cells = [one.arm, f"{one.parameters:,}", f"{one.request / 1e9:.4f}"]
        cells += [_mean(values) for values in (one.auc, one.gauc)]
        for metric in ("auc", "gauc"):
            cells += _difference(one, metric, smallest[metric])
        lines.append(f"| {' | '.join([*cells, family.arms[one.arm].paper])} |")
    return "\n".join(lines) + "\n"


def _difference(one: Outcome, metric: str, smallest: Mapping[str, float]) -> list[str]:
    if one.comparison is None:
        return ["", ""]
    difference, least = one.comparison.difference(metric).difference, smallest[one.arm]
    resolved = abs(difference) >= least
    return [f"{difference * 1e5:+.0f}" if resolved else "not resolvable", _units(least)]


def _units(value: float) -> str:
    return f"{value * 1e5:.0f}"


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.5f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.5f}{spread}"


def make_card(family: Family, arms: Sequence[str], log: str, epochs: int, split: str, card: Path) -> None:
    """Runs what is not done yet, prints the report and writes the card."""
    wanted = entries(family, arms, log, epochs, split)
    run_all([one.job for one in wanted])
    found = outcomes(family, wanted, split)
    text = report(family, found, log, epochs, split)
    print(text, flush=True)
    new_folder(card)
    (card / "table.md").write_text(text)
    first = wanted[0].job.folder
    plain = {
        "environment": environment_of(first),
        "configs": {one.arm: config_of(one.job.folder) for one in wanted},
        "detectable": {metric: detectable(found, metric) for metric in ("auc", "gauc")},
        "arms": [one.plain() for one in found],
    }
    (card / "results.json").write_text(json.dumps(plain, indent=1) + "\n")
    print(f"table and figures: {card}", flush=True)
