"""The contract of a tower: a config that builds it, and its round trip through JSON."""

from __future__ import annotations

import pytest
from pydantic import SerializeAsAny

from ctr_rec.config import Config
from ctr_rec.layers.layout import size
from ctr_rec.models.ranker import Ranker
from ctr_rec.models.tower import Filling, Tower, TowerConfig
from ctr_rec.schema.log import Kind, Side
from ctr_rec.schema.table import SparseSpec
from tests.models.streams import CHANNELS, ITEMS_ONLY, SPEC, feature, spec_of
from tests.models.test_no_leak import CASES, PROFILE_TOKENS


class Holder(Config):
    tower: SerializeAsAny[TowerConfig]


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_config_survives_json(config: TowerConfig) -> None:
    again = Holder.model_validate_json(Holder(tower=config).model_dump_json()).tower
    assert type(again) is type(config)
    assert again == config


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_config_builds_a_tower(config: TowerConfig) -> None:
    tower = config.build(spec_of(config), tuple(CHANNELS) if config.filling is Filling.POINTWISE else ())
    assert isinstance(tower, Tower)
    assert tower.out_width > 0


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
@pytest.mark.parametrize("spec", [SPEC, ITEMS_ONLY], ids=["all", "items only"])
def test_axes_say_what_every_parameter_is_made_of_that_inputs_decide(config: TowerConfig, spec: SparseSpec) -> None:
    """Lengths are right, and with a feature more no other parameter changes its shape."""
    if config in PROFILE_TOKENS.values():
        spec = spec.model_copy(update={"user": SPEC.user})
    spec = spec_of(config, spec)
    channels = tuple(CHANNELS) if config.filling is Filling.POINTWISE else ()
    ranker = Ranker(spec, config, channels)
    shapes = {name: tuple(p.shape) for name, p in ranker.tower.named_parameters(prefix="tower")}
    shapes |= {name: tuple(p.shape) for name, p in ranker.head.named_parameters(prefix="head")}
    for name, axes in ranker.axes().items():
        assert [size(a) if a is not None else n for a, n in zip(axes, shapes[name], strict=True)] == [*shapes[name]]
        for layout in axes:
            assert layout is None or len(dict(layout)) == len(layout), "a name stands once"
    extra = feature("extra", Kind.NUMBER, Side.ITEM), feature("wait", Kind.NUMBER, Side.EVENT)
    more = spec.model_copy(update={"item": (extra[0], *spec.item), "event": (extra[1], *spec.event)})
    wider = dict(Ranker(more, config, channels).named_parameters())
    changed = {name for name, shape in shapes.items() if tuple(wider[name].shape) != shape}
    assert changed <= ranker.axes().keys()
    assert changed


def test_a_config_must_say_how_to_build() -> None:
    with pytest.raises(AssertionError, match="TowerConfig does not say how to build its tower"):
        TowerConfig().build(SPEC, ())


TOKENS_MEET = ("autoint", "hiformer", "rankmixer", "mtgr", "onetrans", "full_attention", "longer")


@pytest.mark.parametrize("name", [name for name, config in CASES.items() if hasattr(config, "tokens")])
def test_a_feature_token_can_be_new_only_where_tokens_do_not_meet(name: str) -> None:
    """Where they do, one more changes every score, so no layout names its MLP and growing is refused."""
    config = CASES[name]
    axes = config.build(spec_of(config), tuple(CHANNELS)).axes()
    assert any("features.mlps." in parameter for parameter in axes) is not name.startswith(TOKENS_MEET)
