"""The cards of ablations: arms that differ as they say, and no sign where the log cannot tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ctr_rec.evaluate.compare import compare
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.full_attention import FullAttentionConfig
from ctr_rec.models.est.tower import ESTConfig
from ctr_rec.models.ranker import Ranker
from ctr_rec.schema.log import Feature, Kind, Side
from ctr_rec.schema.table import SparseSpec, Table
from data.movielens_1m.schema import SCHEMA
from launch.cards import est_ablations
from launch.cards.ablations import POWER_80, Outcome, detectable, entries, report
from launch.cards.grab_ablations import FAMILY

ROOT = Path(__file__).resolve().parents[2]
WHOLE = FAMILY.whole
FAMILIES = {"grab": FAMILY, **est_ablations.TABLES}
ARMS = [(name, arm) for name, family in FAMILIES.items() for arm in family.arms]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def inputs(dim: int, *more: Feature) -> SparseSpec:
    """The recipe's, with tables of a few rows, which no dense parameter depends on. more: features of items."""
    features = [f for f in (*SCHEMA.features, *more) if f.kind is not Kind.TEXT]
    sides = {side: tuple(f for f in features if f.side is side) for side in Side}
    bags = {f.table for f in sides[Side.USER]}
    names = sorted(f.table for f in features if f.table)
    return SparseSpec(
        tables=tuple(Table(name=n, rows=3, dim=dim, init_std=0.1, bags=n in bags) for n in names),
        user=sides[Side.USER],
        item=sides[Side.ITEM],
        event=(),
        counters=(),
        num_actions=len(SCHEMA.actions),
        ticks_per_second=1,
    )


def dense_parameters(arm: str) -> int:
    """Of an arm of GRAB."""
    run = FAMILY.run(arm)
    named = Ranker(inputs(run.embedding.dim), run.tower).named_parameters()
    return sum(p.numel() for name, p in named if not name.startswith("front."))


@pytest.mark.parametrize(("name", "arm"), ARMS)
def test_every_arm_is_a_recipe_that_differs_from_all_others(name: str, arm: str) -> None:
    family = FAMILIES[name]
    assert [other for other in family.arms if family.run(other) == family.run(arm)] == [arm]


@pytest.mark.parametrize(("name", "arm"), [(name, arm) for name, arm in ARMS if name != "grab"])
def test_every_arm_of_est_builds(name: str, arm: str) -> None:
    run = FAMILIES[name].run(arm)
    content = Feature(name="content", kind=Kind.VECTOR, side=Side.ITEM, dim=6)
    spec = inputs(run.embedding.dim, content)
    assert run.tower.build(spec, tuple(run.data.channels)).out_width > 0


def test_what_est_reads_of_content_is_what_the_arms_say() -> None:
    read = {}
    for arm in est_ablations.TABLES["content"].arms:
        tower = est_ablations.TABLES["content"].run(arm).tower
        assert isinstance(tower, ESTConfig)
        tokens = tower.tokens
        read[arm] = (tokens.side_information, tokens.simtier, tower.csa or tokens.retrieval is not None)
    assert read == {
        "ids": (False, False, False),
        "side information": (True, False, False),
        "SimTier": (False, True, False),
        "SimTier and side information": (True, True, False),
    }


def test_what_searches_no_long_history_reads_none() -> None:
    for family in est_ablations.TABLES.values():
        for arm in family.arms:
            run = family.run(arm)
            tokens = getattr(run.tower, "tokens", None)
            assert isinstance(tokens, TokenSettings)
            assert ("lifelong" in run.data.channels) == (tokens.retrieval is not None and bool(run.data.channels)), arm


def test_every_block_of_full_attention_is_masked_in_one_arm() -> None:
    family, masked = est_ablations.TABLES["blocks"], {}
    for arm in family.arms:
        tower = family.run(arm).tower
        assert isinstance(tower, FullAttentionConfig)
        masked[arm] = [block.name for block in tower.masked]
    assert masked.pop("full_attention") == []
    assert masked == {f"without <{a}, {b}>": [a + b] for a, b in ("BB", "BN", "NN", "NB")}


@pytest.mark.parametrize("arm", FAMILY.arms)
def test_every_arm_of_grab_builds(arm: str) -> None:
    assert dense_parameters(arm) > 0


def test_the_matched_arm_has_as_many_parameters_within_two_per_cent() -> None:
    whole, matched = (dense_parameters(arm) for arm in (WHOLE, "single_channel_matched"))
    assert abs(matched / whole - 1) < 0.02
    assert dense_parameters("single_channel") < 0.6 * whole


def test_what_is_compared_is_trained_alike() -> None:
    found = entries(FAMILY, ["no_time", WHOLE], "logs/x", 2, "valid")
    assert [(one.arm, one.job.folder.name) for one in found[:2]] == [(WHOLE, "grab-1"), ("no_time", "no_time-1")]
    assert len(found) == 6
    whole, other = found[0].job, found[1].job
    assert other.settings == {**whole.settings, "tower.use_time": "false"}
    assert whole.scored == ("valid",), "test is not touched where the table is about validation"
    assert entries(FAMILY, [], "logs/x", 2, "test")[0].job.scored == ("valid", "test")


def _runs(strength: float, noise: float = 0.0, seeds: int = 3, users: int = 150) -> list[Predictions]:
    """Logits that hold so much of the truth; equal seeds draw equal noise."""
    found = []
    truth = np.random.default_rng(0).normal(size=users * 20)
    label = (np.random.default_rng(1).random(len(truth)) < 1 / (1 + np.exp(-truth))).astype(np.float32)
    for seed in range(seeds):
        base = strength * truth + np.random.default_rng(10 + seed).normal(size=len(truth))
        logit = base + noise * np.random.default_rng(int(1000 * strength) + seed).normal(size=len(truth))
        n = np.arange(len(truth))
        none = np.zeros(len(truth), np.int64)
        found.append(Predictions(n, n // 20, none, none, none, none.astype(bool), label, logit.astype(np.float32)))
    return found


def _outcome(arm: str, runs: Sequence[Predictions], whole: Sequence[Predictions]) -> Outcome:
    comparison = None if arm == WHOLE else compare(whole, runs, (WHOLE, arm), "valid", replicates=200)
    return Outcome(arm, 1234, 5e7, (0.7, 0.71, 0.72), (0.6, 0.61, 0.62), comparison)


def test_a_difference_below_the_smallest_detectable_one_gets_no_sign() -> None:
    whole = _runs(1.0)
    found = [
        _outcome(WHOLE, whole, whole),
        _outcome("partial_only", _runs(0.5), whole),
        _outcome("no_position", _runs(1.0, noise=0.02), whole),
    ]
    text = report(FAMILY, found, "logs/x", 2, "valid")
    lines = text.splitlines()
    assert lines[2].startswith("- smallest detectable difference of AUC (2.8 standard errors): ")
    first_row = next(number for number, line in enumerate(lines) if line.startswith("|"))
    assert first_row > 4, "what can be resolved is said before any figure"
    partial, position = (
        next(line for line in lines if line.startswith(f"| {arm}")) for arm in ("partial_only", "no_position")
    )
    assert "not resolvable" not in partial
    assert float(partial.split("|")[6]) < -1000
    assert partial.split("|")[10].strip() == "-280"
    assert position.count("not resolvable") == 2


def test_the_error_holds_users_and_training() -> None:
    whole = _runs(1.0)
    found = [_outcome(WHOLE, whole, whole), _outcome("partial_only", _runs(0.5), whole)]
    assert found[1].comparison is not None
    one = found[1].comparison.difference("auc")
    users = (one.high - one.low) / (2 * 1.959964)
    assert one.seed_deviation > 0
    want = POWER_80 * math.sqrt(users**2 + one.seed_deviation**2 / 3)
    assert detectable(found, "auc") == {"partial_only": pytest.approx(want)}


def test_one_seed_has_the_error_of_users_alone() -> None:
    whole = _runs(1.0, seeds=1)
    found = [_outcome(WHOLE, whole, whole), _outcome("partial_only", _runs(0.5, seeds=1), whole)]
    assert found[1].comparison is not None
    one = found[1].comparison.difference("auc")
    assert detectable(found, "auc")["partial_only"] == pytest.approx(POWER_80 * (one.high - one.low) / (2 * 1.959964))


def test_figures_of_the_papers_tables_stand_beside_their_arms() -> None:
    said = {n: {arm: one.paper for arm, one in family.arms.items() if one.paper} for n, family in FAMILIES.items()}
    assert sorted(said["grab"].values()) == sorted(["-280", "-48", "-29", "-29", "-23", "-4", "-4"])
    assert said["blocks"] == {
        "without <B, B>": "-0.01 / -0.00 %",
        "without <B, N>": "-0.03 / -0.02 %",
        "without <N, N>": "-0.03 / -0.02 %",
        "without <N, B>": "-0.20 / -0.20 %",
    }
    assert said["content"] == {
        "side information": "+0.44 / +0.89 %",
        "SimTier": "+1.18 / +1.58 %",
        "SimTier and side information": "+0.95 / +1.47 %",
    }
    # Over full attention, so that must be what they are paired with.
    assert said["mechanisms"] == {"EST": "+0.17 / +0.14 %", "EST without CSA": "-0.01 / -0.03 %"}
    assert FAMILIES["mechanisms"].whole == "full attention"
