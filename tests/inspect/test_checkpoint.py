from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from ctr_rec.checkpoint.manifest import Manifest
from ctr_rec.errors import CheckpointError
from ctr_rec.files import place, remove_tree, write_durably
from ctr_rec.inspect import describe
from tests.checkpoint.stored import Marker, save_another_jobs, save_ours

MANIFEST = Manifest(
    step=2,
    epoch=1,
    batch=7,
    config={"name": "din", "data": {"log": "runs/logs/toy"}, "train": {"strategy": "joint"}},
    data_fingerprint="abcdef0123456789ff",
    train_range=(100, 200),
    metrics={"auc": 0.71234567, "gauc": None},
)


def said(path: Path | str, **options: object) -> str:
    out = io.StringIO()
    assert describe(path, Console(file=out, width=250, highlight=False), **options) == "checkpoint"  # type: ignore[arg-type]
    return out.getvalue()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("stored") / "step-00000002"
    return folder, save_ours(folder, manifest=MANIFEST)


def test_all_that_a_checkpoint_knows_is_told(stored: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, whole = stored
    text = said(folder)
    for part in (
        f"{folder} is a checkpoint of step 2",
        "run din, log runs/logs/toy, data fingerprint abcdef0123456789",
        "position: stage 0 (joint), epoch 1, next batch 7, saved by 2 rank(s)",
        "impression times trained on: 100 to 200",
        "validation: auc 0.71235, gauc undefined",
        "versions: python 3.",
        "row_wise on 0, 1",
        "momentum1 101",
        "12 of dense_optimizer (",
        "dead: rows whose optimizer state is zero",
    ):
        assert part in text
    norms = np.linalg.norm(whole["table/item"].astype(np.float64), axis=1)
    assert f"largest rows of item: {norms.argmax()} ({norms.max():.3g})" in text
    assert re.search(r"│ head.0.weight +│ 16x32 +│ float32", text)
    _, norms_line = re.findall(r"│ item .*", text)
    assert norms_line.split("│")[6].strip() == str((whole["moment/item.momentum1"] == 0).sum())


def test_check_says_that_all_is_as_written_or_names_the_file(stored: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, _ = stored
    assert re.search(r"checked: 5 files, [\d,]+ bytes, all sizes and CRC-32", said(folder, check=True))
    data = next(folder.glob("*.distcp"))
    content = data.read_bytes()
    data.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        with pytest.raises(CheckpointError, match=rf"{data.name} is damaged: expected CRC-32"):
            said(folder, check=True)
    finally:
        data.write_bytes(content)


def test_a_checkpoint_of_another_job_is_told_as_such(tmp_path: Path) -> None:
    save_another_jobs(tmp_path)
    text = said(tmp_path)
    assert "is a distributed checkpoint of PyTorch (DCP) without a manifest.json of ours" in text
    assert "sum 50x4" in text
    assert "entries that are no tensors, not read: extra" in text
    assert not Marker.ran
    with pytest.raises(CheckpointError, match=r"no manifest\.json of ours, so there are no sizes"):
        said(tmp_path, check=True)


def test_a_checkpoint_in_a_store_is_told_as_a_local_one(stored: tuple[Path, dict[str, np.ndarray]]) -> None:
    there = place("memory://bucket/run") / "step-00000002"
    try:
        for file in stored[0].iterdir():
            write_durably(there / file.name, file.read_bytes())
        text = said(str(there), check=True)
        assert text.replace(str(there), str(stored[0])) == said(stored[0], check=True)
    finally:
        remove_tree(place("memory://bucket"))


def test_plain_sgd_leaves_dead_rows_unknown(tmp_path: Path) -> None:
    save_ours(tmp_path / "c", "sgd")
    facts, norms = re.findall(r"│ item .*", said(tmp_path / "c"))
    assert [cell.strip() for cell in facts.split("│")][6] == "none"
    assert [cell.strip() for cell in norms.split("│")][6] == "?"


def test_a_plot_is_written_where_asked(stored: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    text = said(stored[0], out=tmp_path / "plots")
    assert f"distribution of row norms: {tmp_path / 'plots' / 'row_norms.png'}" in text
