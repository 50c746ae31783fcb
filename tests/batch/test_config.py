"""Settings of the reader: what they accept and the sentences of what they refuse."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ctr_rec.batch.config import Channel, DataConfig, Packed, Pointwise
from ctr_rec.config import from_json, override
from ctr_rec.errors import ConfigError


def test_batches_survive_json() -> None:
    for batches in (Pointwise(impressions=7), Packed(tokens=99, context=5)):
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


@pytest.mark.parametrize("actions", [(), (1, 1)])
def test_a_channel_needs_distinct_actions(actions: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="distinct and at least one"):
        Channel(actions=actions)
