"""A small trained run with two channels in an order of their own, for tests of evaluation."""

from pathlib import Path

from ctr_rec.batch.config import Channel
from ctr_rec.config import override
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.main import fit
from ctr_rec.train.run import Run
from tests.batch.logs import random_users, write_log
from tests.train.runs import small_run


def make_log(folder: Path, users: int = 60, seed: int = 3) -> Path:
    """Users u0, u1, ... and items i0, i1, ... with validation and test ranges."""
    write_log(folder, random_users(seed=seed, count=users))
    return folder


def two_channel_run(log: Path) -> Run:
    """The names of the channels do not ascend: a folder that sorts them gives the model its inputs crosswise."""
    run = override(small_run(log, epochs=1), ["train.record_impressions=false", "train.max_steps=6"])
    channels = {"liked": Channel(actions=(1,), last=8), "disliked": Channel(actions=(2,), last=3)}
    # A strong step, so that no two inputs of the model are worth the same.
    dense = run.dense.model_copy(update={"lr": 0.05})
    return run.model_copy(update={"data": run.data.model_copy(update={"channels": channels}), "dense": dense})


def train_alone(run: Run, folder: Path) -> Path:
    with open_group("cpu") as group:
        fit_on(group, run, folder)
    return folder


def fit_on(group: Group, run: Run, folder: Path) -> None:
    fit(run, RunFolder(folder), group, resume=False)
