"""From a run to its picture: what is printed, written and refused."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from ctr_rec.batch.config import Packed
from ctr_rec.config import override
from ctr_rec.errors import CheckpointError, ConfigError
from ctr_rec.inspect.attention import inspect_attention, position_groups, time_groups
from ctr_rec.inspect.attention_mass import Mass
from ctr_rec.models.baselines.hstu import HSTUConfig
from ctr_rec.models.tower import TowerConfig
from ctr_rec.train.run import Run
from tests.evaluate.runs import make_log, train_alone
from tests.serve.requests import GRAB
from tests.train.runs import small_run


def _run(log: Path, tower: TowerConfig) -> Run:
    run = override(small_run(log, epochs=1), ["train.record_impressions=false", "train.max_steps=2"])
    data = run.data.model_copy(update={"batches": Packed(tokens=400, context=40), "channels": {}})
    return run.model_copy(update={"tower": tower, "data": data})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attention")
    return train_alone(_run(make_log(folder / "log"), GRAB), folder / "run")


def test_a_run_is_printed_drawn_and_written_down(trained: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    mass = inspect_attention(trained, console=console)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    for words in ("channel all", "channel liked", "own key", "position 3-4", "action like", "layer 2", "equal weights"):
        assert words in said, words
    assert {p.name for p in (trained / "attention").iterdir()} == {"attention.json", "attention.png", "attention.svg"}
    content = json.loads((trained / "attention" / "attention.json").read_text())
    assert (content["step"], content["split"], content["impressions"]) == (2, "valid", mass.impressions)
    for channel in content["channels"].values():
        for layer in (*channel["layers"], channel["equal_weights"]):
            for part in (layer["position"], layer["time"], layer["action"].values()):
                assert sum(part) + layer["own"] == pytest.approx(1)


def test_a_checkpoint_of_a_run_and_a_small_sample(trained: Path, tmp_path: Path) -> None:
    (checkpoint,) = (trained / "checkpoints").glob("step-*")
    quiet = Console(file=io.StringIO())
    few = inspect_attention(checkpoint, "test", out=tmp_path, impressions=1, console=quiet)
    every = inspect_attention(trained, "test", "step-2", out=tmp_path, console=quiet)
    assert 0 < few.impressions < every.impressions
    with pytest.raises(ConfigError, match=r"--checkpoint chooses one of a run, and .* is a checkpoint"):
        inspect_attention(checkpoint, checkpoint="best", console=quiet)
    with pytest.raises(CheckpointError, match="no checkpoint 'step-7'"):
        inspect_attention(trained, checkpoint="step-7", console=quiet)
    with pytest.raises(ConfigError, match=r"is not a run folder: it has no config\.json"):
        inspect_attention(tmp_path, console=quiet)


def test_a_tower_without_softmax_is_refused(trained: Path, tmp_path: Path) -> None:
    log = Path(json.loads((trained / "config.json").read_text())["data"]["log"])
    run = train_alone(_run(log, HSTUConfig(width=4, heads=1, head_width=4, window=8)), tmp_path / "hstu")
    with pytest.raises(ConfigError, match=r"HSTUTower has no softmax attention over a history.*expected a run of GRAB"):
        inspect_attention(run)
    assert not (run / "attention").exists()


def test_positions_are_grouped_by_doubling() -> None:
    assert [n for n, _ in position_groups(Mass.zeros(12, 1))] == ["1", "2", "3-4", "5-8", "9-11"]
    covered = [p for _, part in position_groups(Mass.zeros(12, 1)) for p in range(*part.indices(12))]
    assert covered == list(range(1, 12))


def test_ages_are_named_by_the_shortest() -> None:
    mass = Mass.zeros(2, 1)
    assert list(time_groups(mass)) == []
    mass.time[[0, 6]] = 1.0
    assert [n for n, _ in time_groups(mass)] == ["0 s", "1 s", "3 s", "7 s", "15 s", "31 s", "1.1 min"]
    mass = Mass.zeros(2, 1)
    mass.time[[11, 12, 17, 26, 31]] = 1.0
    names = dict.fromkeys(n for n, _ in time_groups(mass))
    assert list(names)[:2] == ["34 min", "1.1 h"]
    assert len(names) == 21, "no two buckets share a name"
