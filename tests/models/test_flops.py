"""What every tower says of its arithmetic, against PyTorch's counter, on ragged batches and on single requests."""

from __future__ import annotations

import pytest

from ctr_rec.batch.batch import Batch
from ctr_rec.batch.request import request_batch
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.target_attention import Normalize, TargetAttentionSettings
from ctr_rec.models.baselines.dcn_v2 import DCNv2Config, DCNv2Tower, Structure
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.baselines.hstu import AttentionNorm, HSTUConfig
from ctr_rec.models.baselines.mlp import MLPConfig
from ctr_rec.models.grab.config import Behaviours, MixGate
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.tower import Tower, TowerConfig
from tests.models import flops
from tests.models.flops import assert_flops_match
from tests.models.streams import SPEC, make_batch, random_log

MLP = MLPSettings(hidden=(7, 5))
ITEM_WIDTH = 4 + 4 + 1
GRAB = GRABConfig(
    width=6,
    heads=2,
    head_width=3,
    ffn=5,
    layers=3,
    span=6,
    mlp=MLP,
    channels={"all": Behaviours(window=5), "liked": Behaviours(actions=(2, 3), window=3)},
)
TOWERS: dict[str, TowerConfig] = {
    "mlp": MLPConfig(mlp=MLP),
    "dcn_v2": DCNv2Config(mlp=MLP, cross_layers=2),
    "dcn_v2_low_rank": DCNv2Config(mlp=MLP, rank=3, structure=Structure.STACKED),
    "din": DINConfig(mlp=MLP, attention=TargetAttentionSettings(hidden=(6, 3))),
    "din_softmax": DINConfig(mlp=MLP, attention=TargetAttentionSettings(normalize=Normalize.SOFTMAX)),
    "hstu": HSTUConfig(width=6, heads=2, head_width=3, window=4, layers=3, mlp=MLP),
    "hstu_count": HSTUConfig(width=6, heads=2, head_width=3, window=4, use_age=False, norm=AttentionNorm.VISIBLE_COUNT),
    "grab": GRAB,
    "grab_joint": GRAB.model_copy(update={"mix": MixGate.JOINT, "latent": 4, "profile_tokens": True}),
    "grab_one": GRAB.model_copy(
        update={"layers": 1, "channels": {"all": Behaviours(window=5)}, "mlp": None, "shared_tokenizer": True}
    ),
}


def unseen(config: TowerConfig, batch: Batch) -> int:
    """What towers count that is no matrix product: additions of a mean, and x0 * (W x + b) + x of a cross."""
    pooled = sum(history.values.shape[0] for history in batch.histories.values()) * ITEM_WIDTH
    if isinstance(config, DCNv2Config):
        tower = flops.build(config, SPEC)
        assert isinstance(tower, DCNv2Tower)
        width = tower.inputs.width
        return pooled + 2 * width * config.cross_layers * batch.num_impressions
    return pooled if isinstance(config, MLPConfig) else 0


@pytest.mark.parametrize("name", TOWERS)
@pytest.mark.parametrize("alone", [False, True], ids=["batch", "request"])
def test_a_tower_counts_what_pytorch_counts(name: str, alone: bool) -> None:
    config = TOWERS[name]
    batch = make_batch(random_log(2, delay=1), config.filling)
    if alone:
        batch = request_batch(batch, int(batch.history_length.argmax()), reach=config.reach)
        assert batch.num_events > 2
    assert_flops_match(config, SPEC, batch, unseen=unseen(config, batch))


@pytest.mark.parametrize("name", ["mlp", "din", "hstu", "grab"])
def test_a_wrong_count_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TOWERS[name]
    batch = make_batch(random_log(2), config.filling)
    tower = type(flops.build(config, SPEC))
    right = tower.flops

    def wrong(self: Tower, batch: Batch) -> int:
        return right(self, batch) + 2

    monkeypatch.setattr(tower, "flops", wrong)
    with pytest.raises(AssertionError, match=r"flops says [\d,]+ of products"):
        assert_flops_match(config, SPEC, batch, unseen=unseen(config, batch))
    assert_flops_match(config, SPEC, batch, 0.01, unseen=unseen(config, batch))
