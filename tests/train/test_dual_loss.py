"""The original network beside the tower: until the tower has caught up, then less, then gone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ctr_rec.checkpoint.history import committed, latest
from ctr_rec.checkpoint.manifest import read_manifest
from ctr_rec.checkpoint.tensors import read_contents
from ctr_rec.checkpoint.warm_start.config import WarmStart
from ctr_rec.config import override
from ctr_rec.errors import CheckpointError, ConfigError
from ctr_rec.models.ranker import Ranker
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.train import trainer
from ctr_rec.train.build import build
from ctr_rec.train.feeds import Feeds
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.main import fit
from ctr_rec.train.run import Run
from ctr_rec.train.seen import read_seen
from ctr_rec.train.stage import Loss, Part, Pass
from ctr_rec.train.step import Stepper, bce_sum
from ctr_rec.train.strategies import stages
from ctr_rec.train.trainer import Outcome
from ctr_rec.train.warm_start import fill_tables
from tests.ranks import forkserver, run_ranks
from tests.train.runs import run_with_beside, small_run
from tests.train.test_warm_start import small_log

FADE, EVERY = 3, 4


def fit_alone(run: Run, folder: Path, resume: bool = False) -> Outcome:
    with open_group("cpu") as group:
        return fit(run, RunFolder(folder), group, resume)


def _fit_on_ranks(group: Group, run: Run, folder: Path) -> str:
    return fit(run, RunFolder(folder), group, False).end


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An original network with absurd logits, whose loss any tower undercuts, and its log."""
    root = tmp_path_factory.mktemp("old")
    run = override(small_run(small_log(root / "log", seed=1), epochs=1), ["dense.lr=0.5", "train.max_steps=3"])
    fit_alone(run, root / "run")
    return root


@pytest.fixture(scope="module")
def run(old: Path) -> Run:
    run = run_with_beside(old / "log").model_copy(
        update={"warm_start": WarmStart(source=str(old / "run"), checkpoint="last", dense="beside")}
    )
    train = {"strategy": "dual_loss_warm_start", "dual_loss": {"fade_steps": FADE}, "log_every": 1}
    changed = Run(**{**dict(run), "train": {**run.train.model_dump(), **train}})
    return override(changed, ["validation.metric=logloss", f"validation.every={EVERY}", "checkpoint.every=3"])


def _lines(folder: Path, kind: str) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in RunFolder(folder).metrics.read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def _bytes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(latest(folder).glob("*.distcp"))}


def _dense_names(folder: Path) -> set[str]:
    return set(read_contents(latest(folder)).dense)


def test_the_original_stays_until_it_is_reached_then_fades_and_leaves(run: Run, tmp_path: Path) -> None:
    fit_alone(run, tmp_path)
    valid, train = _lines(tmp_path, "valid"), _lines(tmp_path, "train")
    assert valid[0]["logloss"] < valid[0]["beside_logloss"], "the case needs a tower that catches up at once"
    assert {"beside_auc", "beside_gauc"} <= valid[0].keys()
    assert "beside_auc" not in valid[-1]
    with_two = [line["step"] for line in train if "beside_loss" in line]
    assert with_two == list(range(1, EVERY + FADE + 1))
    assert not any("beside" in name for name in _dense_names(tmp_path))
    assert read_manifest(latest(tmp_path)).stage == 2
    ids = read_seen(tmp_path / "seen")["impression"]
    assert (np.unique(ids, return_counts=True)[1] == run.train.epochs).all()


def test_a_run_killed_in_any_stage_ends_bit_identical(run: Run, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    fit_alone(run, whole)
    for step in (EVERY + 1, EVERY + FADE + 1):
        killed = tmp_path / f"killed-{step}"
        process = forkserver().Process(target=fit_alone, args=(run, killed))  # type: ignore[attr-defined]
        process.start()
        metrics = RunFolder(killed).metrics
        while process.exitcode is None and not (metrics.is_file() and metrics.read_text().count('"train"') >= step):
            process.join(0.002)
        process.kill()
        process.join()
        fit_alone(run, killed, bool(committed(killed)) or killed.exists())
        assert _bytes(killed) == _bytes(whole), f"killed after step {step}"


def test_a_tower_that_never_catches_up_keeps_the_original(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "as_good", lambda *_: False)
    assert fit_alone(run, tmp_path).position.stage == 0
    assert all("beside_auc" in line for line in _lines(tmp_path, "valid"))
    assert any("beside" in name for name in _dense_names(tmp_path))
    assert read_manifest(latest(tmp_path)).stage == 0


def test_two_ranks_go_through_the_same_stages(run: Run, tmp_path: Path) -> None:
    assert run_ranks(_fit_on_ranks, 2, run, tmp_path) == ["finished"] * 2
    assert [line["step"] for line in _lines(tmp_path, "train") if "beside_loss" in line][-1] == EVERY + FADE
    assert read_manifest(latest(tmp_path)).stage == 2


def test_the_second_network_begins_as_the_original_and_the_tower_does_not(run: Run, old: Path) -> None:
    with open_group("cpu") as group:
        built = build(run, group)
        fresh = {name: p.detach().clone() for name, p in built.parallel.dense_parameters.items()}
        assert run.warm_start is not None
        fill_tables(run.warm_start, built)
        theirs = read_contents(latest(old / "run")).dense
        for name, parameter in built.parallel.dense_parameters.items():
            if name.startswith("beside."):
                stored = theirs[name.removeprefix("beside.")]
                value = stored.rows(0, stored.shape[0])
                assert torch.equal(parameter, value), name
            else:
                assert torch.equal(parameter, fresh[name]), name


@pytest.mark.parametrize("loss", [Loss.SUM, Loss.STACKED])
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_loss_is_the_one_of_its_form(run: Run, loss: Loss, weight: float) -> None:
    """Gradients of the step against the formula written out, dropout off."""
    with open_group("cpu") as group:
        built = build(run, group)
        stepper = Stepper(built.parallel, run.dense, 1, torch.float32)
        built.parallel.model.eval()
        module = built.parallel.module
        assert isinstance(module, Ranker)
        assert module.beside is not None
        ((_, batch),) = next(Feeds(built).epoch(stages(run)[0], 0, 0))
        embedded = module.front(batch)
        own, other = module._sequence(embedded, batch), module.beside(embedded, batch)
        if loss is Loss.SUM:
            wanted = bce_sum(own, batch) + weight * bce_sum(other, batch)
        else:
            wanted = bce_sum(own + weight * other, batch)
        parameters = stepper.parts[Part.SEQUENCE] + stepper.parts[Part.BESIDE]
        expected = torch.autograd.grad(wanted / batch.num_impressions, parameters)
        stepper.step(batch, 1.0, Pass(loss=loss, trains=frozenset(Part)), weight)
        for parameter, gradient in zip(parameters, expected, strict=True):
            assert torch.allclose(parameter.grad, gradient, rtol=1e-4, atol=1e-7)


def test_a_source_of_another_network_is_refused(run: Run, tmp_path: Path) -> None:
    other = override(run, ["beside.mlp.hidden=[5]"])
    with pytest.raises(CheckpointError, match=r"holds another network than beside, 3 of 17 weights do not fit"):
        fit_alone(other, tmp_path)


def test_growing_is_refused(run: Run, tmp_path: Path) -> None:
    fit_alone(override(run, ["train.max_steps=1"]), tmp_path)
    with open_group("cpu") as group, pytest.raises(ConfigError, match=r"--grow with train\.strategy=dual_loss"):
        fit(run, RunFolder(tmp_path), group, True, True)
