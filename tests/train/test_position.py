from dataclasses import asdict

import pytest

from ctr_rec.train.position import Position, as_good
from ctr_rec.train.stage import Stage


def test_a_stage_begins_at_its_own_epoch_or_goes_on_where_it_is() -> None:
    here = Position(stage=0, epoch=1, batch=5, step=25, reached=True)
    fresh = here.entered(1, Stage("a", 1), first_epoch=2)
    assert (fresh.stage, fresh.epoch, fresh.batch, fresh.began, fresh.reached) == (1, 2, 0, 25, False)
    on = here.entered(1, Stage("a", 1, goes_on=True), first_epoch=0)
    assert (on.stage, on.epoch, on.batch, on.began, on.reached) == (1, 1, 5, 25, False)


def test_a_stage_is_over_by_its_steps_or_when_the_tower_has_caught_up() -> None:
    at = Position(step=9, began=5)
    assert not at.over(Stage("epochs alone", 1))
    assert [at.over(Stage("s", 1, steps=n)) for n in (3, 4, 5)] == [True, True, False]
    assert not at.over(Stage("r", 1, until_reached=True))
    assert at.caught_up().over(Stage("r", 1, until_reached=True))


@pytest.mark.parametrize(("metric", "worse"), [("auc", 0.6), ("gauc", 0.6), ("logloss", 0.8), ("ne", 0.8)])
def test_the_best_is_kept_and_what_is_no_better_is_counted(metric: str, worse: float) -> None:
    first = Position().judged(metric, 0.7)
    assert (first.best, first.worse) == (0.7, 0)
    for value in (worse, 0.7):
        assert (first.judged(metric, value).best, first.judged(metric, value).worse) == (0.7, 1)
    assert first.judged(metric, float("nan")) == first
    assert as_good(metric, 0.7, 0.7)
    assert as_good(metric, 0.7, worse)
    assert not as_good(metric, worse, 0.7)
    assert not as_good(metric, float("nan"), 0.7)


def test_a_new_log_begins_anew_and_a_checkpoint_of_before_is_read() -> None:
    assert Position(epoch=3, batch=2, step=40, best=0.7).on_new_log() == Position(step=40, first_step=40, began=40)
    older = {key: value for key, value in asdict(Position(step=4)).items() if key not in ("began", "reached")}
    assert Position(**older) == Position(step=4)
