"""EST's mechanisms: planted alone, one switch apart, a placebo beside. Training is `ctr-rec bench est_mechanisms`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ctr_rec.batch.planted_content import ContentEffects
from ctr_rec.bench.est_mechanisms import est_mechanisms
from ctr_rec.bench.mechanisms import BLIND, TOLD_APART, Found, Mechanism, report
from ctr_rec.evaluate.compare import compare
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.models.baselines.full_attention import FullAttentionConfig
from ctr_rec.models.est.tower import ESTConfig
from ctr_rec.prepare.synthetic import write_log

ROWS = {m.effect: m for m in est_mechanisms()}


def test_every_effect_of_content_has_a_row_and_stands_alone() -> None:
    assert set(ROWS) == set(ContentEffects.model_fields)
    for mechanism in ROWS.values():
        strengths = mechanism.settings.effects.model_dump()
        assert [name for name, value in strengths.items() if value] == [mechanism.effect]


@pytest.mark.parametrize(
    ("effect", "switch"),
    [("lifelong_taste", "retrieval"), ("content_interest", "simtier"), ("neighbour_context", "csa")],
)
def test_arms_train_alike_and_differ_in_one_switch_of_est(effect: str, switch: str) -> None:
    mechanism = ROWS[effect]
    on, off = (arm.run("name", Path("log"), mechanism.epochs, seed=1) for arm in (mechanism.on, mechanism.off))
    assert on.model_copy(update={"tower": off.tower}) == off
    assert isinstance(on.tower, ESTConfig)
    a, b = ({**(dump := run.tower.model_dump()), **dump["tokens"]} for run in (on, off))
    assert {name for name in a if a[name] != b[name]} - {"tokens"} == {switch}
    assert (bool(a[switch]), bool(b[switch])) == (True, False)


def test_full_attention_stands_beside_est_with_the_same_tokens() -> None:
    on, off = ROWS["token_interaction"].on.tower, ROWS["token_interaction"].off.tower
    assert isinstance(on, ESTConfig)
    assert isinstance(off, FullAttentionConfig)
    assert (on.tokens, on.layers, on.mlp) == (off.tokens, off.layers, off.mlp)
    assert not ROWS["token_interaction"].apart


@pytest.mark.parametrize("mechanism", [m for m in ROWS.values() if m.placebo is not None], ids=lambda m: m.effect)
def test_a_placebo_has_the_same_clicks_and_other_contents(mechanism: Mechanism, tmp_path: Path) -> None:
    settings = (mechanism.settings, mechanism.placebo_settings)
    found = []
    for name, one in zip(("own", "placebo"), settings, strict=True):
        assert one is not None
        few = one.model_copy(update={"users": 30, "items": 300})
        write_log(few, tmp_path / f"raw-{name}", tmp_path / name)
        events = pl.read_parquet(tmp_path / name / "events" / "*.parquet").sort(pl.all().exclude("^.*content.*$"))
        found.append((events, pl.read_parquet(tmp_path / name / "items" / "*.parquet")))
    (own, own_items), (other, other_items) = found
    assert own.equals(other)
    assert own_items.drop("content").equals(other_items.drop("content"))
    assert not own_items["content"].equals(other_items["content"])


def test_a_placebo_has_a_goal_and_what_need_not_be_told_apart_has_none() -> None:
    rng = np.random.default_rng(0)
    n, none = np.arange(400), np.zeros(400, np.int64)
    label = (rng.random(400) < 0.5).astype(np.float32)
    on, off = (
        Predictions(n, n // 20, none, none, none, none.astype(bool), label, (k * label + rng.random(400)).astype("f4"))
        for k in (0.4, 0.0)
    )
    goals: dict[str, dict[str, str | None]] = {}
    for effect in ("content_interest", "token_interaction"):
        row = ROWS[effect]
        found = Found(row, 0.9, compare([off], [on], replicates=50), 0.44 if row.placebo is not None else None)

        said: list[tuple[Any, ...]] = []
        report(lambda *words, said=said, **more: said.append((*words, more)), found, "est_mechanisms")
        for bench, _, name, value, _, more in said:
            assert bench == "est_mechanisms"
            goals.setdefault(effect, {})[name] = more.get("goal")
            assert "nothing to read" not in name or value == pytest.approx(0.15), "as far below a coin as above it"
    blind = "share of that lead, with, where there is nothing to read"
    assert goals["content_interest"][blind] == BLIND
    assert goals["content_interest"]["with - without"] == TOLD_APART
    assert blind not in goals["token_interaction"]
    assert goals["token_interaction"]["with - without"] is None
