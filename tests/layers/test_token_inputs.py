"""What all models of one table read: checked names, and content that is a feature only where asked for."""

from __future__ import annotations

import pytest
import torch

from ctr_rec.errors import ConfigError
from ctr_rec.layers.token_inputs import TokenInputs, TokenSettings
from ctr_rec.models.tower import Filling
from ctr_rec.schema.log import Feature, Kind, Side
from tests.models.streams import CHANNELS, SPEC, look_up, make_batch, random_log

CONTENT = Feature(name="content", kind=Kind.VECTOR, side=Side.ITEM, dim=5)
WITH_CONTENT = SPEC.model_copy(update={"item": (*SPEC.item, CONTENT)})


def test_feature_tokens_and_behaviours_of_each_sequence() -> None:
    batch = make_batch(random_log(0), Filling.POINTWISE)
    inputs = TokenInputs(SPEC, TokenSettings(width=6, recent="all"), tuple(CHANNELS), "EST").double()
    tokens = inputs(look_up(batch), batch)
    assert tokens.features_NLD.shape == (batch.num_impressions, len(inputs.names), 6)
    recent = tokens.behaviours["all"]
    assert recent.x_PD.shape == (recent.sequences.position_P.shape[0], 6)
    assert recent.x_PD.shape[0] > 0
    tokens.features_NLD.sum().backward(retain_graph=True)
    recent.x_PD.sum().backward()
    assert all(p.grad is not None for p in inputs.parameters())


@pytest.mark.parametrize("side", [False, True])
def test_content_is_a_feature_only_as_side_information(side: bool) -> None:
    settings = TokenSettings(width=6, recent="all", content="content", side_information=side)
    inputs = TokenInputs(WITH_CONTENT, settings, tuple(CHANNELS), "EST")
    assert ("candidate/content" in inputs.names) is side
    assert ("item.content", 5) in (inputs.axes()["behaviours.all.first.weight"][1] or ()) or not side
    batch = make_batch(random_log(0), Filling.POINTWISE)
    batch.items.vectors["content"] = torch.randn(batch.item.shape[0], 5, dtype=torch.float64)
    assert inputs.double()(look_up(batch), batch).features_NLD.shape[1] == len(inputs.names)


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"EST reads the channel 'recent', data.channels has \['all', 'liked'\]"):
        TokenInputs(SPEC, TokenSettings(), tuple(CHANNELS), "EST")
    with pytest.raises(ConfigError, match="content names 'text', the log's vector features of items are none"):
        TokenInputs(SPEC, TokenSettings(recent="all", content="text"), tuple(CHANNELS), "EST")
    with pytest.raises(ConfigError, match=r"side_information would have no effect without tower\.tokens\.content"):
        TokenInputs(SPEC, TokenSettings(recent="all", side_information=True), tuple(CHANNELS), "EST")
    only = WITH_CONTENT.model_copy(update={"item": (CONTENT,)})
    with pytest.raises(ConfigError, match="EST needs at least one item feature besides content vectors"):
        TokenInputs(only, TokenSettings(recent="all", content="content"), tuple(CHANNELS), "EST")
