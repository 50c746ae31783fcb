"""One command, several ways to launch it: torchrun and TorchX train to the same loss; two ranks fit a family."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.batch.logs import random_users, write_log

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
from pathlib import Path
from tests.train.runs import small_run

def small():
    return small_run(Path({log!r}), epochs=1)
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    write_log(tmp_path / "log", random_users(seed=8, count=30))
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE.format(log=str(tmp_path / "log")))
    return f"{path}:small"


def _run(*command: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def _losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line.get("loss", line.get("logloss")) for line in lines]


RANKS = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-endpoint", "localhost:0"]
RANKS += ["--rdzv-backend", "c10d", "-m", "ctr_rec"]


@pytest.mark.slow
def test_torchrun_and_torchx_train_to_the_same_loss(recipe: str, tmp_path: Path) -> None:
    bare, torchx = tmp_path / "bare", tmp_path / "torchx"
    _run(*RANKS, "train", recipe, "--run-dir", str(bare))
    component = ["torchx", "run", "-s", "local_cwd", "torchx_components/ctr.py:train", "--recipe", recipe]
    _run(*component, "--run_dir", str(torchx), "-j", "1x2")
    assert len(_losses(bare)) >= 3
    assert _losses(torchx) == _losses(bare)


@pytest.mark.slow
def test_two_ranks_train_score_and_fit_a_family(recipe: str, tmp_path: Path) -> None:
    folder, sizes = tmp_path / "scaled", ("embedding.dim=4", "embedding.dim=8")
    asked = ["scale", recipe, "--over", "embedding.dim=4,8", "--seeds", "1", "--run-dir", str(folder)]
    _run(*RANKS, *asked)
    runs = [folder / size / "seed-1" for size in sizes]
    scored = [json.loads((run / "metrics" / "valid.json").read_text())["metrics"]["auc"] for run in runs]
    found = json.loads((folder / "scale.json").read_text())
    assert [point["auc"] for point in found["families"]["embedding.dim"]["sizes"]] == [[auc] for auc in scored]
    assert json.loads((runs[0] / "environment.json").read_text())["ranks"] == 2
    before = [(run / "metrics" / "valid.json").stat().st_mtime_ns for run in runs]
    _run(*RANKS, *asked)
    assert [(run / "metrics" / "valid.json").stat().st_mtime_ns for run in runs] == before, (
        "what is done is not repeated"
    )
