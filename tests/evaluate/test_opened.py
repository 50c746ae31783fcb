"""A run opened again has its checkpoint's weights, whoever asks for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ctr_rec.errors import CheckpointError, ConfigError
from ctr_rec.evaluate.opened import open_run
from ctr_rec.sharding.group import open_group
from tests.evaluate.runs import make_log, train_alone, two_channel_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("opened")
    return train_alone(two_channel_run(make_log(folder / "log")), folder / "run")


def test_checkpoints_differ_and_each_is_found(trained: Path) -> None:
    weights = {}
    with open_group("cpu") as group:
        for name in ("step-4", "step-6", "last"):
            built, stored = open_run(trained, name, None, group)
            assert stored.step == (4 if name == "step-4" else 6)
            weights[name] = built.ranker.head.weight.detach().clone()
    assert torch.equal(weights["step-6"], weights["last"])
    assert not torch.equal(weights["step-4"], weights["last"])


def test_what_cannot_be_opened_is_said(trained: Path, tmp_path: Path) -> None:
    with open_group("cpu") as group:
        with pytest.raises(ConfigError, match=r"is not a run folder: it has no config\.json"):
            open_run(tmp_path, "best", None, group)
        with pytest.raises(CheckpointError, match="no checkpoint 'step-5'"):
            open_run(trained, "step-5", None, group)


def test_a_changed_log_is_refused_unless_it_is_named(trained: Path) -> None:
    log = Path(json.loads((trained / "config.json").read_text())["data"]["log"])
    text = (log / "manifest.json").read_text()
    try:
        (log / "manifest.json").write_text(json.dumps({**json.loads(text), "fingerprint": "another"}))
        with open_group("cpu") as group:
            with pytest.raises(CheckpointError, match="or say --log"):
                open_run(trained, "last", None, group)
            assert open_run(trained, "last", log, group)[1].step == 6
    finally:
        (log / "manifest.json").write_text(text)
