"""`ctr-rec scale`: trains a family over depth or width, and says how its gain grows with its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from ctr_rec.config import load_recipe
from ctr_rec.errors import ConfigError
from ctr_rec.scale.curve import AXES, Named, Point, draw, fit_family
from ctr_rec.scale.family import Family, baseline_run, families, sized
from ctr_rec.scale.report import Scaled, write
from ctr_rec.scale.runs import Member, train_and_score
from ctr_rec.schema.manifest import load_manifest
from ctr_rec.sharding.agreement import on_main
from ctr_rec.sharding.group import open_group
from ctr_rec.train.environment import code_version
from ctr_rec.train.run import Run

DRAWS = 1000

Seeds = Sequence[Member]


def scale(
    recipe: str,
    over: Sequence[str],
    together: Sequence[str],
    overrides: Sequence[str],
    run_dir: Path,
    seeds: int = 3,
    baseline: str | None = None,
    draws: int = DRAWS,
) -> int:
    """Trains and scores what is not done yet, then fits, writes and prints. Exit status 0 also when asked to stop.

    Runs lie in `<run_dir>/<size>/seed-<n>` and `<run_dir>/baseline/seed-<n>`, seeds 1, 2, ...; a run that is done is
    not repeated and one that was stopped goes on, when the same command is given again.

    Args:
        recipe: of the family. over, together: see scale/family.py.
        overrides: settings of every run; those of one model alone (its tower, its batches) leave the baseline out.
        baseline: recipe that gains are counted from; None counts from chance.
        draws: of users and seeds, for the intervals.

    Raises:
        CtrRecError: anything the user can mend, on every rank, before the first run where it can be known by then.
    """
    if any(text.strip().startswith("train.seed=") for text in overrides):
        raise ConfigError("scale gives every size the seeds 1, 2, ..., so --set train.seed has no effect; remove it")
    found = families(over, together)
    base = load_recipe(recipe, Run)
    numbers = range(1, seeds + 1)
    sizes = {
        family.over: [
            [Member(sized(base, overrides, size, seed), run_dir / size.folder / f"seed-{seed}") for seed in numbers]
            for size in family.sizes
        ]
        for family in found
    }
    beside: Seeds = []
    if baseline is not None:
        other = load_recipe(baseline, Run)
        beside = [Member(baseline_run(other, overrides, s), run_dir / "baseline" / f"seed-{s}") for s in numbers]
    every = [*beside, *(member for seeds_of in sizes.values() for one in seeds_of for member in one)]
    _same_data(every)
    console = Console()
    with open_group() as group:
        for number, member in enumerate(every, 1):
            if not train_and_score(member, group):
                return 0
            if group.is_main:
                metrics = member.measured()["metrics"]
                where = member.folder.relative_to(run_dir)
                console.print(
                    f"{number} of {len(every)}, {where}: AUC {metrics['auc']:.5f}, GAUC {metrics['gauc']:.5f}",
                    highlight=False,
                )
        facts = {"recipe": recipe, "baseline_recipe": baseline, "settings": list(overrides), "seeds": seeds}
        on_main(group, lambda: _finish(found, sizes, beside, facts, draws, run_dir, console))
    return 0


def _same_data(every: Seeds) -> None:
    """Raises ConfigError where the baseline would be scored on other impressions or another label."""
    said = {(member.run.data.log, member.run.data.label) for member in every}
    if len(said) > 1:
        raise ConfigError(
            f"scale: expected one log and one label, got {' and '.join(f'{a} ({b})' for a, b in sorted(said))}; set "
            "data.log and data.label for both with --set"
        )


def _finish(
    found: Sequence[Family],
    sizes: Mapping[str, Sequence[Seeds]],
    beside: Seeds,
    facts: dict[str, object],
    draws: int,
    folder: Path,
    console: Console,
) -> None:
    points = {
        family.over: [_point(size.name, seeds) for size, seeds in zip(family.sizes, sizes[family.over], strict=True)]
        for family in found
    }
    baseline = _point(beside[0].run.name, beside) if beside else None
    reference = baseline.gauc if baseline is not None else ()
    fits = {}
    for family in found:
        drawn = draw([_named(seeds) for seeds in sizes[family.over]], _named(beside), draws)
        fits[family.over] = [fit_family(points[family.over], reference, drawn, axis) for axis in AXES]
    data = next(iter(sizes.values()))[0][0].run.data
    stamp = {"log": data.log, "data_fingerprint": load_manifest(data.log).fingerprint, "label": data.label}
    write(Scaled(points, fits, baseline, {**facts, **stamp, "draws": draws, "code": code_version()}), folder, console)


def _point(name: str, seeds: Seeds) -> Point:
    """Cost is a matter of the tower and the split, so that of the first seed is that of all."""
    measured = [member.measured() for member in seeds]
    cost = measured[0]["cost"]
    auc, gauc = (tuple(found["metrics"][key] for found in measured) for key in ("auc", "gauc"))
    return Point(name, cost["dense"], cost["flops_per_request"], auc, gauc)


def _named(seeds: Seeds) -> Named:
    return {str(member.folder): member.predictions() for member in seeds}
