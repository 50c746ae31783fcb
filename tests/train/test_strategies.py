from pathlib import Path

import pytest

from ctr_rec.config import override
from ctr_rec.errors import ConfigError
from ctr_rec.train.run import Run
from ctr_rec.train.stage import Feed, Loss, Part, Restart
from ctr_rec.train.strategies import stages
from tests.train.runs import run_with_beside, small_run

RESET = "train.strategy=multi_epoch_sparse_reset"


def test_joint_is_one_stage_of_all_epochs() -> None:
    (stage,) = stages(small_run(Path("log"), epochs=5))
    assert (stage.name, stage.epochs, stage.restart) == ("joint", 5, None)


def test_sparse_reset_is_a_stage_for_each_epoch_and_all_but_the_first_begin_again() -> None:
    found = stages(override(small_run(Path("log"), epochs=3), [RESET, "train.sparse_reset.min_rows=7"]))
    assert [s.epochs for s in found] == [1, 1, 1]
    assert [s.restart for s in found] == [None, Restart(min_rows=7), Restart(min_rows=7)]


def test_fresh_values_differ_between_epochs() -> None:
    found = stages(override(small_run(Path("log"), epochs=3), [RESET, "train.sparse_reset.to=fresh"]))
    assert [s.restart.fresh for s in found if s.restart is not None] == [1, 2]


def test_settings_of_a_strategy_that_is_not_chosen_are_refused() -> None:
    run = override(small_run(Path("log")), ["train.sparse_reset.min_rows=7"])
    with pytest.raises(ConfigError, match=r"train\.strategy=joint resets nothing; set train\.strategy to multi_epoch"):
        stages(run)


STS = "train.sequence_then_sparse"
WARM = 'warm_start={"source": "old", "dense": "beside"}'


def _run(*settings: str) -> Run:
    return override(run_with_beside(Path("log"), epochs=4), list(settings))


def test_sts_by_step_is_one_stage_of_two_passes() -> None:
    (stage,) = stages(_run())
    one, two = stage.passes
    assert (one.feed, one.loss, one.trains) == (Feed.OWN, Loss.SEQUENCE, {Part.SEQUENCE})
    assert (two.feed, two.loss, two.trains) == (Feed.SINGLE, Loss.BESIDE, {Part.TABLES, Part.BESIDE})
    (_, frozen) = stages(_run(WARM, f"{STS}.head=frozen"))[0].passes
    assert frozen.trains == {Part.TABLES}
    (_, packed) = stages(_run(f"{STS}.reading=section_5_3"))[0].passes
    assert (packed.feed, packed.loss) == (Feed.OWN, Loss.BESIDE)
    (_, through) = stages(_run("data.channels={}", "beside=null", f"{STS}.head=sequence"))[0].passes
    assert (through.feed, through.loss, through.trains) == (Feed.ALONE, Loss.SEQUENCE, {Part.TABLES})


def test_sts_by_epoch_alternates_stages() -> None:
    found = stages(_run(f"{STS}.alternate=epoch", f"{STS}.period=2"))
    assert [Part.TABLES in s.passes[0].trains for s in found] == [False, False, True, False, False, True]
    assert all(s.epochs == 1 and len(s.passes) == 1 for s in found)


def test_dual_loss_goes_from_both_over_fading_to_the_tower_alone() -> None:
    both, fades, alone = stages(_run(WARM, "train.strategy=dual_loss_warm_start", "train.dual_loss.fade_steps=7"))
    assert both.until_reached
    assert (fades.goes_on, fades.steps, fades.fades) == (True, 7, True)
    assert (alone.goes_on, alone.drops_beside, alone.reads_beside) == (True, True, False)
    assert both.passes == fades.passes
    assert both.passes[0].loss is Loss.SUM
    stacked = _run(WARM, "train.strategy=dual_loss_warm_start", "train.dual_loss.form=stacked")
    assert stages(stacked)[0].passes[0].loss is Loss.STACKED


REFUSED = {
    "no second network": (["beside=null"], r"through a second network, and the run has none; set beside"),
    "one without effect": ([f"{STS}.head=sequence"], r"through the tower, so beside has no effect; remove it"),
    "an untrained frozen head": ([f"{STS}.head=frozen"], r"head=frozen .* nobody has trained; start it warm"),
    "packed batches left out": (
        [f"{STS}.reading=section_5_3", f"{STS}.period=3"],
        r"2 of 3 would never reach the tables; set period=1",
    ),
    "a history that nobody is given": ([f"{STS}.history=5"], r"history=5 has no effect with head=trained"),
    "no epoch of stage two": ([f"{STS}.alternate=epoch", f"{STS}.period=5"], r"no table would ever be trained"),
    "settings of sts": (["train.strategy=joint", f"{STS}.period=2"], r"train\.sequence_then_sparse is set, but"),
    "settings of dual loss": (
        ["train.dual_loss.form=stacked"],
        r"train\.dual_loss is set, but .* dual_loss_warm",
    ),
    "beside under joint": (["train.strategy=joint"], r"beside is set, but train\.strategy=joint trains no second"),
    "dual loss from nothing": (["train.strategy=dual_loss_warm_start"], r"needs the original network: set beside"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_run_that_a_strategy_cannot_train_is_refused(case: str) -> None:
    settings, message = REFUSED[case]
    # Without the second network its channels would be refused before.
    first = ["data.channels={}"] if "beside=null" in settings else []
    with pytest.raises(ConfigError, match=message):
        stages(_run(*first, *settings))
