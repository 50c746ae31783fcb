"""One block: both attentions read the layer before, and CSA is a gather that passes over what has no content."""

from __future__ import annotations

import torch
from torch import Tensor

from ctr_rec.layers.behaviours import Sequences
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.est.kind import Kind
from ctr_rec.models.est.layer import ESTLayer
from ctr_rec.models.est.tower import ESTConfig
from ctr_rec.ops.content_neighbours import neighbours

WIDTH = 4
CONFIG = ESTConfig(tokens=TokenSettings(width=WIDTH, content="content"), neighbours=2)


def _block(config: ESTConfig = CONFIG) -> tuple[ESTLayer, Tensor, Tensor, Kind, Kind]:
    torch.manual_seed(0)
    layer = ESTLayer(("a", "b"), config).double()
    n_NLD, x_PD = torch.randn(2, 2, WIDTH, dtype=torch.float64), torch.randn(5, WIDTH, dtype=torch.float64)
    of = Sequences(torch.arange(5), torch.tensor([0, 4, 5]))
    content = torch.randn(5, 3, dtype=torch.float64)
    content[1] = 0
    near = neighbours(content, torch.arange(5), of.offsets_S1, 2)
    return layer, n_NLD, x_PD, Kind(of, None), Kind(of, near)


def test_behaviours_are_the_layer_before_and_not_what_csa_made_of_them() -> None:
    """With CSA feature tokens see the same behaviours as without: both read layer s - 1."""
    layer, n_NLD, x_PD, plainly, near = _block()
    with_csa, b_with = layer(n_NLD, [x_PD], [near])
    without, b_without = layer(n_NLD, [x_PD], [plainly])
    assert torch.equal(with_csa, without)
    assert not torch.equal(b_with[0], b_without[0])


def test_csa_adds_weighted_neighbours_and_nothing_without_content() -> None:
    layer, n_NLD, x_PD, plainly, near = _block()
    _, (got,) = layer(n_NLD, [x_PD], [near])
    _, (plain,) = layer(n_NLD, [x_PD], [plainly])
    torch.testing.assert_close(got[1], plain[1], rtol=0, atol=0)
    normed, found = layer.norm_b(x_PD), near.neighbours
    assert found is not None
    attended = []
    for p in range(5):
        parts = zip(found.index_PK[p].tolist(), found.weight_PK[p].tolist(), strict=True)
        attended.append(x_PD[p] + sum(weight * normed[i] for i, weight in parts))
    attended_PD = torch.stack(attended)
    torch.testing.assert_close(got, attended_PD + layer.ffn_b(layer.norm_b_ffn(attended_PD)))


def test_dropout_is_behind_attention_and_ffn() -> None:
    layer, n_NLD, x_PD, _, near = _block(CONFIG.model_copy(update={"dropout": 0.999}))
    n_eval, _ = layer.eval()(n_NLD, [x_PD], [near])
    n_train, _ = layer.train()(n_NLD, [x_PD], [near])
    assert (n_train == n_NLD).float().mean() > 0.5
    assert not (n_eval == n_NLD).any()
