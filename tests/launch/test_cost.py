"""What a card says of cost: read from runs, cheapest first, and the front that no model beats in both."""

from __future__ import annotations

import json
from pathlib import Path

from launch.cards.cost import Cost, front, plot, read, table

CHEAP, GOOD, WASTE, BEST = (
    Cost("cheap", 1_000, 1e8, (0.60, 0.62)),
    Cost("good", 2_000, 2e8, (0.66, 0.64)),
    Cost("waste", 9_000, 3e8, (0.64, 0.65)),
    Cost("best", 4_000, 4e8, (0.70, 0.70)),
)


def test_the_front_leaves_out_what_a_cheaper_model_reaches() -> None:
    assert front([BEST, WASTE, CHEAP, GOOD]) == [CHEAP, GOOD, BEST]


def test_of_two_that_cost_alike_the_better_one_is_on_the_front() -> None:
    worse = Cost("worse", 1, GOOD.request, (0.63,))
    assert front([worse, GOOD]) == [GOOD]


def test_a_model_that_is_only_as_good_for_more_is_not_on_the_front() -> None:
    assert front([Cost("twin", 1, 9e8, BEST.gauc), BEST]) == [BEST]


def test_the_table_is_sorted_by_arithmetic_and_marks_the_front() -> None:
    rows = table([BEST, WASTE, CHEAP, GOOD]).splitlines()[6:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == ["cheap", "good", "waste", "best"]
    assert [row.rstrip("| ").endswith("yes") for row in rows] == [True, True, False, True]
    assert "| good | 2,000 | 0.2000 | 0.6500 | yes |" in rows


def test_costs_and_gauc_come_from_the_runs_of_all_seeds(tmp_path: Path) -> None:
    for seed, gauc in enumerate((0.6, 0.8)):
        folder = tmp_path / str(seed) / "metrics"
        folder.mkdir(parents=True)
        found = {"cost": {"dense": 7, "flops_per_request": 5e6}, "metrics": {"gauc": gauc}}
        (folder / "test.json").write_text(json.dumps(found))
    one = read("x", [tmp_path / "0", tmp_path / "1"], "test")
    assert one == Cost("x", 7, 5e6, (0.6, 0.8))
    plot([one, GOOD], tmp_path / "cost.svg", "test")
    assert (tmp_path / "cost.svg").stat().st_size > 1000
