"""GRAB's ablations: every row of the paper's Table 3, ours beside theirs, and what this log can resolve.

    ctr-rec prepare data/movielens_1m --raw FOLDER --out logs/movielens_1m_early --split early
    python -m launch.cards.grab_ablations --card launch/records/NAME
    python -m launch.cards.grab_ablations --log LOG --epochs 2 --split valid --arm no_time --card launch/records/NAME

Each arm is the recipe `grab` with a few settings changed, seeds 1 to 3. Nothing is chosen among the arms. Stopped
anywhere, the same command goes on. The paper's arms are Baidu's model on Baidu's log, so sizes do not carry over.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ctr_rec.config import override
from ctr_rec.evaluate.compare import Comparison, compare
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.models.ranker import Ranker
from ctr_rec.schema.manifest import load_manifest
from ctr_rec.schema.table import SparseSpec, sparse_spec
from ctr_rec.train.run import Run
from launch.cards.jobs import Trained, card_option, config_of, environment_of, new_folder, run_all
from launch.recipes.movielens import grab

ROOT = Path("runs/card_grab_ablations")
RECIPE = "launch/recipes/movielens.py:grab"
SEEDS = (1, 2, 3)
WHOLE = "grab"
ONE_CHANNEL = {"tower.channels": '{"all": {}}'}
ARMS: Mapping[str, Mapping[str, str]] = {
    WHOLE: {},
    "partial_only": {"tower.shared_tokenizer": "false", "tower.views": "partial"},
    "full_only": {"tower.shared_tokenizer": "false", "tower.views": "full"},
    "no_position": {"tower.use_position": "false"},
    "no_time": {"tower.use_time": "false"},
    "action_token": {"tower.action": "token"},
    "action_bias": {"tower.action": "bias"},
    "action_neither": {"tower.action": "neither"},
    "single_channel": ONE_CHANNEL,
    # As many dense parameters as the three channels have together, within 2 per cent.
    "single_channel_matched": {**ONE_CHANNEL, "tower.width": "96", "tower.heads": "6", "tower.ffn": "256"},
    "no_mix": {"tower.mix": "none"},
    "joint_gate": {"tower.mix": "joint"},
    "latent": {"tower.latent": "16"},
    "profile_tokens": {"tower.profile_tokens": "true"},
}
# Change of AUC in 1e-5 where Table 3 has the row. Its "no relative action" takes the action from the bias [ours].
PAPER: Mapping[str, int] = {
    "partial_only": -280,
    "full_only": -23,
    "no_position": -4,
    "no_time": -29,
    "action_token": -48,
    "single_channel": -29,
    "no_mix": -4,
}
# A two-sided test at 5 per cent finds a difference of so many standard errors with a power of 80 per cent.
POWER_80 = 2.8
_HALF_95 = 1.959964


@dataclass(frozen=True)
class Entry:
    """One run: an arm with a seed."""

    arm: str
    job: Trained


def entries(arms: Sequence[str], log: str, epochs: int, split: str) -> list[Entry]:
    """WHOLE is always among them, as all are paired with it. Runs of other logs or epochs lie in other folders."""
    scored = ("valid",) if split == "valid" else ("valid", "test")
    found = []
    for seed in SEEDS:
        for arm in dict.fromkeys((WHOLE, *arms)):
            settings = {"data.log": log, "train.seed": str(seed), "train.epochs": str(epochs), **ARMS[arm]}
            folder = ROOT / f"{Path(log).name}-{epochs}" / f"{arm}-{seed}"
            found.append(Entry(arm, Trained(folder, RECIPE, settings, scored=scored)))
    return found


def arm_run(arm: str) -> Run:
    return override(grab(), [f"{key}={value}" for key, value in ARMS[arm].items()])


def dense_parameters(arm: str, spec: SparseSpec) -> int:
    """All but the tables."""
    named = Ranker(spec, arm_run(arm).tower).named_parameters()
    return sum(p.numel() for name, p in named if not name.startswith("front."))


@dataclass(frozen=True)
class Outcome:
    """Of one arm: its comparison with WHOLE, paired by impression and seed, clustered by user; None for WHOLE."""

    arm: str
    parameters: int
    auc: tuple[float, ...]
    gauc: tuple[float, ...]
    comparison: Comparison | None

    def plain(self) -> dict[str, Any]:
        against = json.loads(self.comparison.to_json()) if self.comparison is not None else None
        return {**vars(self), "comparison": against, "settings": dict(ARMS[self.arm])}


def outcomes(wanted: Sequence[Entry], split: str, spec: SparseSpec) -> list[Outcome]:
    """Read from finished runs."""
    runs: dict[str, list[Path]] = {}
    for one in wanted:
        runs.setdefault(one.arm, []).append(one.job.folder)
    rows = {arm: [Predictions.load(f / "predictions" / f"{split}.parquet") for f in of] for arm, of in runs.items()}
    found = []
    for arm, folders in runs.items():
        metrics = [json.loads((f / "metrics" / f"{split}.json").read_text())["metrics"] for f in folders]
        comparison = None if arm == WHOLE else compare(rows[WHOLE], rows[arm], (WHOLE, arm), split)
        auc, gauc = (tuple(one[name] for one in metrics) for name in ("auc", "gauc"))
        found.append(Outcome(arm, dense_parameters(arm, spec), auc, gauc, comparison))
    return found


def detectable(found: Sequence[Outcome], metric: str) -> dict[str, float]:
    """Smallest difference to WHOLE that this log and these seeds resolve, by arm: POWER_80 standard errors.

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


def report(found: Sequence[Outcome], log: str, epochs: int, split: str) -> str:
    """What can be resolved comes first; a difference below it gets no sign."""
    smallest = {metric: detectable(found, metric) for metric in ("auc", "gauc")}
    seeds = max(len(one.auc) for one in found)
    lines = [f"`{log}`, {split}, {epochs} epochs at most, {seeds} seeds. In units of 1e-5:", ""]
    for metric, of in smallest.items():
        values = sorted(of.values())
        if values:
            span = f"{_units(values[0])} to {_units(values[-1])}, median {_units(statistics.median(values))}"
            lines.append(f"- smallest detectable difference of {metric.upper()} ({POWER_80} standard errors): {span}")
    theirs = max(abs(change) for change in PAPER.values())
    lines += [f"- the paper's changes of AUC: {min(map(abs, PAPER.values()))} to {theirs}", ""]
    lines += [
        "| arm | dense parameters | AUC | GAUC | AUC - grab | detectable | GAUC - grab | detectable | paper, AUC |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for one in found:
        cells = [one.arm, f"{one.parameters:,}", *(_mean(values) for values in (one.auc, one.gauc))]
        for metric in ("auc", "gauc"):
            cells += _difference(one, metric, smallest[metric])
        lines.append(f"| {' | '.join([*cells, f'{PAPER[one.arm]:+d}' if one.arm in PAPER else ''])} |")
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


@click.command()
@click.option("--arm", "arms", type=click.Choice(list(ARMS)), multiple=True, default=list(ARMS))
@click.option("--log", default="logs/movielens_1m_early", help="A prepared log.")
@click.option("--epochs", type=click.IntRange(min=1), default=4, help="At most; training stops where it stops to gain.")
@click.option("--split", type=click.Choice(["valid", "test"]), default="test", help="What the table is about.")
@card_option
def main(arms: tuple[str, ...], log: str, epochs: int, split: str, card: Path) -> None:
    """Run what is not done yet, print the report and write the card."""
    wanted = entries(arms, log, epochs, split)
    run_all([one.job for one in wanted])
    found = outcomes(wanted, split, sparse_spec(load_manifest(log), grab().embedding))
    text = report(found, log, epochs, split)
    print(text, flush=True)
    new_folder(card)
    (card / "table.md").write_text(text)
    first = wanted[0].job.folder
    environment = environment_of(first)
    plain = {
        "environment": environment,
        "config": config_of(first),
        "detectable": {metric: detectable(found, metric) for metric in ("auc", "gauc")},
        "arms": [one.plain() for one in found],
    }
    (card / "results.json").write_text(json.dumps(plain, indent=1) + "\n")
    print(f"table and figures: {card}", flush=True)


if __name__ == "__main__":
    main()
