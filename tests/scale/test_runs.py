"""A run is done once: what is finished is found so, what was stopped goes on, what is another run is refused."""

from __future__ import annotations

import json

import pytest

from ctr_rec.config import override
from ctr_rec.errors import ConfigError, DataError
from ctr_rec.scale import runs
from ctr_rec.scale.runs import Member, train_and_score
from ctr_rec.sharding.group import open_group
from tests.evaluate.runs import make_log
from tests.train.runs import small_run


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Member:
    folder = tmp_path_factory.mktemp("scale")
    run = override(
        small_run(make_log(folder / "log"), epochs=1), ["train.max_steps=4", "train.record_impressions=false"]
    )
    made = Member(run, folder / "size" / "seed-1")
    assert not made.done
    with open_group("cpu") as group:
        assert train_and_score(made, group)
    return made


def changed(member: Member, setting: str) -> Member:
    return Member(override(member.run, [setting]), member.folder)


def test_a_finished_run_is_found_done_and_not_repeated(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    assert member.done
    found = member.measured()
    assert found["cost"]["flops_per_request"] > found["cost"]["flops_per_impression"]
    assert 0 < found["metrics"]["gauc"] < 1
    assert len(member.predictions()) == found["metrics"]["impressions"]

    def never(*_args: object, **_named: object) -> None:
        raise AssertionError

    monkeypatch.setattr(runs, "fit", never)
    monkeypatch.setattr(runs, "score", never)
    with open_group("cpu") as group:
        assert train_and_score(member, group)


def test_a_finished_run_with_other_settings_is_refused(member: Member) -> None:
    for setting in ("dense.lr=0.5", "train.max_steps=9"):
        with pytest.raises(
            ConfigError, match=rf"finished run with other settings: {setting.split('=')[0]} was .*--run-dir"
        ):
            _ = changed(member, setting).done
    assert changed(member, "train.log_every=77").done, "what no result depends on may change"


def test_a_run_that_lacks_only_its_score_is_scored(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    before = member.metrics.read_text()
    member.metrics.unlink()

    def never(*_args: object, **_named: object) -> None:
        raise AssertionError

    monkeypatch.setattr(runs, "fit", never)
    with open_group("cpu") as group:
        assert train_and_score(member, group)
    assert json.loads(member.metrics.read_text())["metrics"] == json.loads(before)["metrics"]


def test_a_run_that_was_stopped_goes_on(member: Member) -> None:
    marker = member.folder / "clean-stop.json"
    text = marker.read_text()
    try:
        marker.write_text(json.dumps({**json.loads(text), "end": "stopped"}))
        assert not member.trained
        assert not member.done
    finally:
        marker.write_text(text)


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("data_fingerprint", "f" * 64, "was measured on data with fingerprint ffffffffffffffff, but"),
        ("metrics", {"gauc": None}, "GAUC is undefined .*scale needs a validation range in which some user has both"),
    ],
)
def test_metrics_that_cannot_be_used_are_told(member: Member, key: str, value: object, part: str) -> None:
    text = member.metrics.read_text()
    try:
        member.metrics.write_text(json.dumps({**json.loads(text), key: value}))
        with pytest.raises(DataError, match=part):
            member.measured()
    finally:
        member.metrics.write_text(text)
