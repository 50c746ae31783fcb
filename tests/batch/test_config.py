"""Settings of the reader: what they accept and the sentences of what they refuse."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ctr_rec.batch.config import Alone, Batches, Channel, DataConfig, Packed, Pointwise
from ctr_rec.config import from_json, override
from ctr_rec.errors import ConfigError


def test_batches_survive_json() -> None:
    fillings: list[Batches] = [
        Pointwise(impressions=7),
        Pointwise(history=5),
        Packed(tokens=99, context=5),
        Alone(),
        Alone(impressions=7, history=5, tokens=90),
    ]
    for batches in fillings:
        config = DataConfig(log="x", label="y", batches=batches, channels={"all": Channel()})
        assert from_json(DataConfig, config.model_dump_json(), "test") == config


def test_batches_can_be_overridden() -> None:
    config = DataConfig(log="x", label="y")
    changed = override(config, ["batches.impressions=12", 'channels.new={"last": 3}'])
    assert changed.batches == Pointwise(impressions=12)
    assert changed.channels["new"].last == 3


def test_context_must_leave_room() -> None:
    config = DataConfig(log="x", label="y", batches=Packed(tokens=200, context=50))
    with pytest.raises(ConfigError, match=r"less than half of batches.tokens, got context 50 of 100 .* tokens to 101"):
        override(config, ["batches.tokens=100"])
    assert Packed(tokens=101, context=50).reach == 50
    assert Packed(tokens=100).reach == 25
    assert Packed(tokens=3).reach == 1


def test_alone_is_chosen_by_name() -> None:
    config = DataConfig(log="x", label="y", batches=Packed())
    changed = override(config, ['batches={"filling": "alone", "history": 64}', "batches.impressions=9"])
    assert changed.batches == Alone(impressions=9, history=64)


def test_tokens_of_impressions_alone_need_a_history_that_fits() -> None:
    with pytest.raises(ValidationError, match=r"tokens=90 cannot be kept where batches.history is null.*set batches"):
        Alone(tokens=90)
    with pytest.raises(ValidationError, match=r"must hold one impression.*got 64 for history 64; raise tokens to 65"):
        Alone(tokens=64, history=64)
    assert Alone(tokens=65, history=64).most == 1
    assert Alone(impressions=9, tokens=6500, history=64).most_tokens == 9 * 65
    assert (Alone(history=64).most, Alone().most_tokens) == (None, None)


def test_a_history_that_no_channel_reads_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"batches.history=8 would have no effect.*data.channels.*add one"):
        DataConfig(log="x", label="y", batches=Pointwise(history=8))


@pytest.mark.parametrize("actions", [(), (1, 1)])
def test_a_channel_needs_distinct_actions(actions: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="distinct and at least one"):
        Channel(actions=actions)
