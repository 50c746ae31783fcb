"""The command from words to files, on runs that are made up; how one is trained is in test_runs.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctr_rec.errors import ConfigError
from ctr_rec.metrics.mergeable import all_metrics
from ctr_rec.scale import main
from ctr_rec.scale.runs import Member
from ctr_rec.train.folder import RunFolder
from tests.evaluate.runs import make_log
from tests.scale.curves import predictions

RECIPE = """
from pathlib import Path
from tests.train.runs import small_run
from ctr_rec.models.baselines.mlp import MLPConfig

def din():
    return small_run(Path({log!r}), epochs=1)

def mlp():
    return din().model_copy(update={{"name": "mlp", "tower": MLPConfig()}})

def elsewhere():
    run = din()
    return run.model_copy(update={{"data": run.data.model_copy(update={{"label": "clicked"}})}})
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    log = make_log(tmp_path / "log", users=5)
    path = tmp_path / "recipes.py"
    path.write_text(RECIPE.format(log=str(log)))
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Member]:
    """Stands in for training: the more codes of order, the better. Returns the runs that were asked for."""
    found: list[Member] = []

    def pretend(member: Member, _group: object) -> bool:
        found.append(member)
        if member.folder.parent.name.endswith("orders=99"):
            return False
        seed = member.run.train.seed
        signal = 0.3 if member.folder.parent.name == "baseline" else 0.1 * member.run.tower.orders  # type: ignore[attr-defined]
        rows = predictions(signal, seed)
        metrics = {key: float(value) for key, value in all_metrics(rows.label, rows.logit, rows.user).items()}
        rows.save(RunFolder(member.folder).predictions("valid"))
        fingerprint = json.loads((Path(member.run.data.log) / "manifest.json").read_text())["fingerprint"]
        size = int(1000 * signal)
        cost = {"dense": size, "flops_per_request": 10.0 * size}
        member.metrics.parent.mkdir()
        member.metrics.write_text(json.dumps({"data_fingerprint": fingerprint, "metrics": metrics, "cost": cost}))
        return True

    monkeypatch.setattr(main, "train_and_score", pretend)
    return found


def test_it_runs_the_baseline_and_every_size_with_every_seed(
    recipe: Path, asked: list[Member], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments: dict[str, Any] = {"seeds": 2, "baseline": f"{recipe}:mlp", "draws": 20}
    over = ["tower.orders=5,8,14"]
    assert main.scale(f"{recipe}:din", over, [], ["train.max_steps=3"], out, **arguments) == 0
    sizes = ["baseline", "tower.orders=5", "tower.orders=8", "tower.orders=14"]
    assert [str(m.folder.relative_to(out)) for m in asked] == [f"{s}/seed-{n}" for s in sizes for n in (1, 2)]
    assert [m.run.train.seed for m in asked] == [1, 2] * 4
    assert {m.run.train.max_steps for m in asked} == {3}
    found = json.loads((out / "scale.json").read_text())
    assert found["settings"] == ["train.max_steps=3"]
    assert found["baseline"]["dense"] == 300
    fits = found["families"]["tower.orders"]["fits"]
    assert [fit["verdict"] for fit in fits] == ["grows", "grows"]
    assert fits[1]["x"] == pytest.approx([5e-6, 8e-6, 14e-6])
    printed = capsys.readouterr().out
    assert "8 of 8, tower.orders=14/seed-2: AUC 0." in printed
    assert "Gains are over mlp (GAUC 0." in " ".join(printed.split())


def test_a_stop_ends_it_without_a_curve(recipe: Path, asked: list[Member], tmp_path: Path) -> None:
    assert main.scale(f"{recipe}:din", ["tower.orders=5,99,7"], [], [], tmp_path / "out", seeds=1) == 0
    assert len(asked) == 2
    assert not (tmp_path / "out" / "scale.json").exists()


def test_what_cannot_be_compared_is_refused_before_anything_runs(recipe: Path, asked: list[Member]) -> None:
    out, over = recipe.parent / "out", ["tower.orders=5,8"]
    with pytest.raises(ConfigError, match=r"expected one log and one label, got .*clicked.* and .*liked"):
        main.scale(f"{recipe}:din", over, [], [], out, baseline=f"{recipe}:elsewhere")
    with pytest.raises(ConfigError, match=r"--set train\.seed has no effect; remove it"):
        main.scale(f"{recipe}:din", over, [], ["train.seed=4"], out)
    with pytest.raises(ConfigError, match=r"tower\.orders=0"):
        main.scale(f"{recipe}:din", ["tower.orders=5,0"], [], [], out)
    assert not asked
    assert not out.exists()
