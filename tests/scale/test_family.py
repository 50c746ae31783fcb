from __future__ import annotations

from pathlib import Path

import pytest

from ctr_rec.errors import ConfigError
from ctr_rec.scale.family import baseline_run, families, sized
from tests.train.runs import small_run


def test_a_family_for_every_setting() -> None:
    depth, width = families(["tower.layers=1,2,4", "tower.mlp.hidden=[8],[16, 4]"])
    assert [size.settings for size in depth.sizes] == [("tower.layers=1",), ("tower.layers=2",), ("tower.layers=4",)]
    assert [size.name for size in width.sizes] == ["tower.mlp.hidden=[8]", "tower.mlp.hidden=[16, 4]"]
    assert [size.folder for size in width.sizes] == ["tower.mlp.hidden=-8-", "tower.mlp.hidden=-16--4-"]


def test_what_moves_together_is_set_first_and_may_repeat() -> None:
    (family,) = families(["tower.width=32,64,96"], ["tower.heads=2,4,4", "tower.kind=a,b,c"])
    assert family.sizes[1].settings == ("tower.heads=4", "tower.kind=b", "tower.width=64")
    assert [size.name for size in family.sizes] == ["tower.width=32", "tower.width=64", "tower.width=96"]


@pytest.mark.parametrize(
    ("over", "together", "part"),
    [
        (["tower.layers"], [], r"--over expects key=value,value,\.\.\., got 'tower.layers'; for example --over tower"),
        (["tower.layers=1,2,1"], [], "--over tower.layers: expected different values, got 1,2,1; remove what repeats"),
        (["a=1,2", "a=3,4"], [], "expected every setting once, got a twice"),
        (["a=1,2", "b=3,4"], ["c=1,2"], "--with moves with one --over, got 2; scale one setting at a time"),
        (["a=1,2"], ["b=1,2,3"], "--with b: expected 2 values, as many as --over a has, got 3"),
        (["a=1,2"], ["b=x,"], "--with b: expected different values, got x,"),
    ],
)
def test_what_is_no_family_is_refused(over: list[str], together: list[str], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        families(over, together)


def test_the_baseline_is_trained_under_the_same_conditions_with_a_tower_of_its_own(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    settings = ["train.epochs=5", "tower.orders=7", "data.batches.impressions=9", "data.label=clicked"]
    (family,) = families(["tower.ages=3,4"])
    member = sized(run, settings, family.sizes[1], seed=8)
    assert (member.train.epochs, member.train.seed, member.tower.ages, member.tower.orders) == (5, 8, 4, 7)  # type: ignore[attr-defined]
    beside = baseline_run(run, settings, seed=8)
    assert (beside.train.epochs, beside.train.seed, beside.data.label) == (5, 8, "clicked")
    assert beside.tower == run.tower
    assert beside.data.batches == run.data.batches
    with pytest.raises(ConfigError, match="unknown key 'layers'"):
        sized(run, [], families(["tower.layers=1,2"])[0].sizes[0], seed=1)
