"""From a run of full attention to its blocks: what is printed, written and refused."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from ctr_rec.config import override
from ctr_rec.errors import ConfigError
from ctr_rec.evaluate.main import evaluate
from ctr_rec.inspect.blocks import inspect_blocks
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.full_attention import Block, FullAttentionConfig
from ctr_rec.models.tower import TowerConfig
from ctr_rec.train.run import Run
from tests.evaluate.runs import make_log, train_alone
from tests.train.runs import small_run

SMALL = FullAttentionConfig(tokens=TokenSettings(width=8, recent="all"), heads=2, ffn=6)


def _run(log: Path, tower: TowerConfig) -> Run:
    run = override(small_run(log, epochs=1), ["train.record_impressions=false", "train.max_steps=4"])
    return run.model_copy(update={"tower": tower})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blocks")
    return train_alone(_run(make_log(folder / "log"), SMALL), folder / "run")


def test_a_run_is_printed_drawn_and_written_down(trained: Path) -> None:
    console = Console(file=io.StringIO(), width=160)
    ranks, effects = inspect_blocks(trained, console=console)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    for words in ("<N, B>", "<B, B>", "layer 2", "all queries alike", "GAUC, not renormalised", "step 4"):
        assert words in said, words
    assert {p.name for p in (trained / "blocks").iterdir()} == {"blocks.json", "blocks.png", "blocks.svg"}
    content = json.loads((trained / "blocks" / "blocks.json").read_text())
    assert content["step"] == 4
    assert content["impressions"] == ranks.impressions[Block.NN] >= ranks.impressions[Block.BB] > 0
    for block, (by_layer, alike) in ranks.means().items():
        assert content["effective_rank"][block.value]["layers"] == by_layer
        assert all(alike <= value + 1e-9 <= 1 + 1e-9 for value in by_layer)
    found = content["masked_minus_whole"]["auc"]["nb"]["renormalised"]
    assert found["low"] <= found["value"] <= found["high"]
    assert found["value"] == effects.differences["auc"][Block.NB]["renormalised"].value != 0


def test_metrics_are_those_of_evaluate(trained: Path, tmp_path: Path) -> None:
    """Of the whole split, with nothing masked; the tower is left as it was built."""
    (checkpoint,) = (trained / "checkpoints").glob("step-*")
    quiet = Console(file=io.StringIO())
    _, effects = inspect_blocks(checkpoint, "test", out=tmp_path, impressions=10**9, console=quiet)
    evaluate(trained, checkpoint="last")
    stored = json.loads((trained / "metrics" / "test.json").read_text())
    for key, value in effects.metrics.items():
        assert value == pytest.approx(stored["metrics"][key], abs=1e-6)


def test_another_tower_and_a_masked_one_are_refused(trained: Path, tmp_path: Path) -> None:
    log = Path(json.loads((trained / "config.json").read_text())["data"]["log"])
    din = train_alone(override(small_run(log, epochs=1), ["train.max_steps=2"]), tmp_path / "din")
    with pytest.raises(ConfigError, match="inspect blocks: DINTower is no full attention; expected a run of it"):
        inspect_blocks(din)
    masked = SMALL.model_copy(update={"masked": (Block.NB, Block.BB)})
    run = train_alone(_run(log, masked), tmp_path / "masked")
    with pytest.raises(ConfigError, match=r"the run was trained with <B, B>, <N, B> masked; expected one that masks"):
        inspect_blocks(run)
    assert not (run / "blocks").exists()
