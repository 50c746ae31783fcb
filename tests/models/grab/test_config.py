"""What the settings promise: reach, and refusals that name the setting."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ctr_rec.batch.config import DataConfig, Packed
from ctr_rec.config import Config, override
from ctr_rec.errors import ConfigError
from ctr_rec.layers.context import ContextSettings
from ctr_rec.models.grab.config import ActionRole, Behaviours, Views
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.tower import TowerConfig
from ctr_rec.train.run import Run


def test_reach_is_layers_times_span_whatever_the_channels() -> None:
    assert GRABConfig(layers=3, span=50, channels={"few": Behaviours(actions=(1,), window=7)}).reach == 150


def test_a_window_beyond_the_span_is_refused() -> None:
    with pytest.raises((ConfigError, ValidationError), match=r"channels\.x\.window=9 is larger than tower\.span=8"):
        GRABConfig(span=8, channels={"x": Behaviours(window=9)})


def test_a_tower_without_channels_is_refused() -> None:
    with pytest.raises(ValidationError, match="channels"):
        GRABConfig(channels={})


def test_what_partial_queries_cannot_read_is_refused() -> None:
    with pytest.raises((ConfigError, ValidationError), match=r"tower\.profile_tokens=True needs queries that see them"):
        GRABConfig(views=Views.PARTIAL, profile_tokens=True)
    with pytest.raises(
        (ConfigError, ValidationError), match=r"no effect with tower\.views='partial'.*'use_time': False"
    ):
        GRABConfig(views=Views.PARTIAL, context=ContextSettings(use_time=False))


@pytest.mark.parametrize("views", [Views.PARTIAL, Views.FULL])
def test_one_tokenizer_for_one_view_alone_is_refused(views: Views) -> None:
    with pytest.raises(
        (ConfigError, ValidationError), match=f"shared_tokenizer=True has no effect with tower.views={views.value}"
    ):
        GRABConfig(views=views, shared_tokenizer=True)


@pytest.mark.parametrize(
    ("role", "token", "bias"),
    [("token", True, False), ("bias", False, True), ("both", True, True), ("neither", False, False)],
)
def test_the_action_is_said_where_its_role_says(role: str, token: bool, bias: bool) -> None:
    config = GRABConfig(action=ActionRole(role))
    assert (config.token_says_action, config.bias_says_action) == (token, bias)


def test_a_run_survives_its_json_and_its_fields_can_be_overridden() -> None:
    run = Run(
        name="x",
        data=DataConfig(log="l", label="y", batches=Packed(tokens=4096, context=512)),
        tower=GRABConfig(channels={"liked": Behaviours(actions=(1, 2), window=20, seconds=60)}),
    )
    again = Run.model_validate_json(run.model_dump_json())
    assert again == run
    changed = override(run, ["tower.channels.liked.window=10", "tower.latent=8"])
    assert isinstance(changed.tower, GRABConfig)
    assert (changed.tower.channels["liked"].window, changed.tower.latent) == (10, 8)
    assert isinstance(changed.tower, TowerConfig)
    assert issubclass(Behaviours, Config)
