"""The contract of a tower: a config that builds it, and its round trip through JSON."""

from __future__ import annotations

import pytest
from pydantic import SerializeAsAny

from ctr_rec.config import Config
from ctr_rec.models.tower import Filling, Tower, TowerConfig
from tests.models.streams import CHANNELS, SPEC
from tests.models.test_no_leak import CASES


class Holder(Config):
    tower: SerializeAsAny[TowerConfig]


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_config_survives_json(config: TowerConfig) -> None:
    again = Holder.model_validate_json(Holder(tower=config).model_dump_json()).tower
    assert type(again) is type(config)
    assert again == config


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_config_builds_a_tower(config: TowerConfig) -> None:
    tower = config.build(SPEC, tuple(CHANNELS) if config.filling is Filling.POINTWISE else ())
    assert isinstance(tower, Tower)
    assert tower.out_width > 0


def test_a_config_must_say_how_to_build() -> None:
    with pytest.raises(AssertionError, match="TowerConfig does not say how to build its tower"):
        TowerConfig().build(SPEC, ())
