"""`ctr-rec train`: the same on one process, under torchrun, and in a TorchX job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ctr_rec.config import load_recipe, override
from ctr_rec.errors import ConfigError
from ctr_rec.files import write_json
from ctr_rec.sharding.agreement import on_main
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.train.build import Built, build
from ctr_rec.train.environment import environment
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.growth import settle_growth
from ctr_rec.train.run import Run
from ctr_rec.train.trainer import Outcome, Trainer, seed_everything
from ctr_rec.train.warm_start import start_warm


def train(recipe: str, overrides: list[str], run_dir: Path, resume: bool, grow: bool = False) -> int:
    """Trains the run that the recipe returns. Exit status 0 also when it was asked to stop and saved in time.

    grow: with `resume`, the recipe and its log may have more than the run's last checkpoint; see checkpoint/grow.py.

    Raises:
        CtrRecError: anything the user can mend, on every rank.
    """
    if grow and not resume:
        raise ConfigError("--grow goes on from the last checkpoint of a run; add --resume")
    run = override(load_recipe(recipe, Run), overrides)
    with open_group() as group:
        fit(run, RunFolder(run_dir), group, resume, grow)
    return 0


def fit(
    run: Run,
    folder: RunFolder,
    group: Group,
    resume: bool,
    grow: bool = False,
    at_start: Callable[[Built], None] | None = None,
) -> Outcome:
    """Trains on this rank of an open group and leaves the whole truth in the run folder.

    at_start: called before the first step of a run that begins, with the model as it starts.
    """
    if run.train.threads is not None:
        torch.set_num_threads(run.train.threads)
    goes_on = on_main(group, lambda: folder.open(run, resume, grow))
    built = build(run, group)
    seed_everything(run.train.seed, group.index)
    trainer = Trainer(run, folder, built)
    growth = trainer.start(goes_on, grow)
    if growth is not None:
        on_main(group, lambda: settle_growth(folder, growth, run, built.manifest))
    if group.is_main:
        _describe(folder, built)
    if not goes_on and run.warm_start is not None:
        start_warm(run.warm_start, built, folder)
    if not goes_on and at_start is not None:
        at_start(built)
    outcome = trainer.fit()
    if group.is_main:
        write_json(folder.clean_stop, {"end": outcome.end, "step": outcome.position.step})
    group.barrier()
    return outcome


def _describe(folder: RunFolder, built: Built) -> None:
    from rich.console import Console

    write_json(folder.path / "environment.json", environment(built.group))
    write_json(folder.inputs, built.spec.model_dump(mode="json"))
    built.parallel.plan.save(folder.path / "plan.json")
    Console(stderr=True).print(built.parallel.plan.rich())
