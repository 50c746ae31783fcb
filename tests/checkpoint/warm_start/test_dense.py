from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from ctr_rec.checkpoint.warm_start.dense import dense_tensors, load_dense, plan_dense
from ctr_rec.checkpoint.warm_start.safetensors import open_safetensors
from ctr_rec.checkpoint.warm_start.source import Source
from ctr_rec.errors import CheckpointError, ConfigError
from tests.checkpoint.warm_start.cases import write_safetensors


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    tensors = {
        "model.embeddings.t.weight": torch.ones(2, 2),
        "model.0.weight": torch.full((2, 3), 5.0),
        "ema.0.weight": torch.zeros(2, 3),
        "module.0.bias": torch.full((3,), 6.0),
        "a.1.weight": torch.ones(2),
        "b.1.weight": torch.ones(2),
        "module.1.running_mean": torch.full((2,), 7.0),
    }
    return open_safetensors(write_safetensors(tmp_path / "m.safetensors", tensors))


def shapes() -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in dense_tensors(model()).items()}


def test_weights_of_the_same_name_and_shape_are_taken_and_the_rest_is_listed(source: Source) -> None:
    report = plan_dense(shapes(), source, "matching")
    assert report.loaded == {"0.weight": "model.0.weight", "1.running_mean": "module.1.running_mean"}
    assert report.left_out["0.bias"] == "shape (3,) in the source, (2,) here"
    assert report.left_out["1.weight"] == "the source has none of this name"
    live = model()
    load_dense(live, source, report)
    assert bool((live[0].weight == 5).all())  # type: ignore[index]
    assert bool((live[1].running_mean == 7).all())  # type: ignore[index]


def test_none_takes_none(source: Source) -> None:
    report = plan_dense(shapes(), source, "none")
    assert not report.loaded
    assert report.left_out.keys() == shapes().keys()


def test_a_map_is_taken_at_its_word_or_refused(source: Source) -> None:
    report = plan_dense(shapes(), source, {"1.weight": "b.1.weight"})
    assert report.loaded == {"1.weight": "b.1.weight"}
    assert report.left_out["0.weight"] == "not in the map"
    with pytest.raises(ConfigError, match=r"warm_start.dense names '2.weight', the model has 0.bias, 0.weight"):
        plan_dense(shapes(), source, {"2.weight": "b.1.weight"})
    with pytest.raises(CheckpointError, match=r"0.bias from module.0.bias: shape \(3,\) in the source, \(2,\) here"):
        plan_dense(shapes(), source, {"0.bias": "module.0.bias"})
    with pytest.raises(CheckpointError, match=r"0.bias from x: .*m.safetensors has no weight 'x'"):
        plan_dense(shapes(), source, {"0.bias": "x"})
    unread = Source("src", "checkpoint", {}, unread=("note",))
    with pytest.raises(CheckpointError, match=r"0.bias from note: the entry note is no tensor, or one in"):
        plan_dense(shapes(), unread, {"0.bias": "note"})


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", {"0.bias": torch.tensor([1.0, float("nan")])})
    source = open_safetensors(path)
    with pytest.raises(CheckpointError, match=r"m.safetensors: weight 0.bias is not finite; leave it out of dense"):
        load_dense(model(), source, plan_dense(shapes(), source, "matching"))


def test_the_second_network_takes_all_of_the_sources_own_network_and_nothing_else(source: Source) -> None:
    ours = {"beside.0.weight": (2, 3), "0.weight": (2, 3)}
    report = plan_dense(ours, source, "beside")
    assert report.loaded == {"beside.0.weight": "model.0.weight"}
    assert report.left_out == {"0.weight": "not of the second network"}
    with pytest.raises(CheckpointError, match=r"1 of 2 weights do not fit \(beside\.2\.weight: the source has none"):
        plan_dense({**ours, "beside.2.weight": (1,)}, source, "beside")
    with pytest.raises(ConfigError, match=r"dense=beside, but the run has no second network"):
        plan_dense(shapes(), source, "beside")
